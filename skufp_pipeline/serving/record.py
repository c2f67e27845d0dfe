"""The record of a request, which logs, metrics and traces are made of.

It holds no photo, no word of a query, no name of a file, no key and no address.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skufp_pipeline.serving.problems import failed

GONE = 499  # status of a request whose client went away before its answer began
UNMATCHED = "unmatched"  # the route of a path that the service does not have
REFUSED = {  # by status, where nothing more is known
    401: "key",
    403: "forbidden",
    408: "slow",
    413: "too_large",
    415: "unsupported",
    429: "busy",
    499: "gone",
    503: "not_ready",
}


@dataclass
class Record:
    """One request.

    Attributes:
        route: its template, such as `/v1/products/{sku_id}`.
        milliseconds: from its first line to the last byte of the answer.
        stages: milliseconds by stage.
        index, version: that answered.
        key: name of the key that was presented.
        refused: why it was not accepted, a word: busy, rate, key, role ...
        failure: class of the exception behind a status of 500.
        headers: of the request, for the trace that it belongs to; never logged.
    """

    method: str
    began_ns: int
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    request_id: str | None = None
    route: str = UNMATCHED
    status: int = GONE
    milliseconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    index: str | None = None
    version: str | None = None
    verdict: str | None = None
    key: str | None = None
    refused: str | None = None
    failure: str | None = None

    def answered(
        self, index: str, version: str, stages: dict[str, float], verdict: str | None = None
    ) -> None:
        """Notes what an index answered."""
        self.index, self.version, self.stages, self.verdict = index, version, stages, verdict


Observer = Callable[[Record], None]


def record_of(request: HTTPConnection) -> Record:
    """The record of a request that `Recorder` passed on."""
    record: Record = request.state.record
    return record


class Recorder:
    """ASGI middleware that records each request, and shows it to the observers when it has ended.

    What nobody foresaw to fail is answered here, so that these answers have the headers of all others.
    """

    def __init__(self, app: ASGIApp, observers: Sequence[Observer]) -> None:
        self.app = app
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        record = Record(scope["method"], time.time_ns(), headers)
        scope.setdefault("state", {})["record"] = record
        began = time.perf_counter()
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                record.status, has_begun = message["status"], True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            record.failure = type(error).__name__
            answer = await failed(Request(scope), error)  # which logs it
            if not has_begun:
                await answer(scope, receive, watched)
        finally:
            record.refused = record.refused or REFUSED.get(record.status)
            record.milliseconds = (time.perf_counter() - began) * 1000
            record.request_id = scope["state"].get("request_id")
            record.route = _route(scope, record.route)
            for observer in self._observers:
                observer(record)


def _route(scope: Scope, known: str) -> str:
    route: Any = scope.get("route")
    return getattr(route, "path", known)
