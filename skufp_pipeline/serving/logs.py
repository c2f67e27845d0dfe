"""Logs: one JSON object a line, one line a request.

A request's line has: time, request id, method, route template, status, milliseconds in all and by stage,
index and version, verdict, name of the key, why it was refused, class of an exception. It has no photo, no
word of a query, no file name, no metadata of a photo, no key, no address and no path.

Exceptions are logged with the places in the code that they passed and without their text, which may quote a
query; but a `UserError` with it: those of requests are answered and not logged, others are an operator's.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

from skufp_pipeline.errors import UserError
from skufp_pipeline.serving.record import Record

LOGGER = logging.getLogger("skufp_pipeline.serving")  # and of all modules below it
PROBES = ("/livez", "/readyz", "/metrics")  # asked every few seconds; their lines are debug messages
FRAMES = 8  # last places of an exception's way that are logged


class JsonLines(logging.Formatter):
    """Formats a log record as one line of JSON; `fields` of the record are keys of their own."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])[-FRAMES:]
            line["exception"] = record.exc_info[0].__name__
            if isinstance(record.exc_info[1], UserError):
                line["detail"] = str(record.exc_info[1])
            line["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(line, ensure_ascii=False, default=str)


def log_request(record: Record) -> None:
    """Writes the line of a request."""
    fields = {
        "request_id": record.request_id,
        "method": record.method,
        "route": record.route,
        "status": record.status,
        "ms": round(record.milliseconds, 2),
        "stages": {stage: round(ms, 2) for stage, ms in record.stages.items()},
        "index": record.index,
        "version": record.version,
        "verdict": record.verdict,
        "key": record.key,
        "refused": record.refused,
        "failure": record.failure,
    }
    told = {name: value for name, value in fields.items() if value not in (None, {})}
    level = logging.ERROR if record.status == 500 else logging.INFO
    LOGGER.log(logging.DEBUG if record.route in PROBES else level, "request", extra={"fields": told})


def configure_logs() -> None:
    """Sends the service's and uvicorn's lines to stderr as JSON; uvicorn's own access log, which has paths
    and addresses, is off."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in (LOGGER.name, "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate, access.disabled = [], False, True
