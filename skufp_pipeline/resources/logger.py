"""A Dagster logger for a person at a terminal."""

import logging

import dagster as dg


@dg.logger({}, description="The message and nothing else, for a person at a terminal.")
def plain_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """Prints what assets log, without Dagster's prefixes and its own bookkeeping."""
    logger = logging.Logger("skufp", level=logging.INFO)
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter())
    logger.addHandler(handler)
    return logger


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        return f"    {meta.get('orig_message', record.getMessage())}"
