"""A Dagster logger for terminal output."""

import logging

import dagster as dg


@dg.logger({}, description="The message and nothing else, for a person at a terminal.")
def plain_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """Prints the messages of assets without Dagster's prefixes and events."""
    logger = logging.Logger("skufp", level=logging.INFO)
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter())
    handler.addFilter(_is_of_an_asset)
    logger.addHandler(handler)
    return logger


def _is_of_an_asset(record: logging.LogRecord) -> bool:
    """Whether an asset logged the record, not Dagster (an event, or a step skipped after a failure)."""
    meta = getattr(record, "dagster_meta", {})
    skipped_step = str(meta.get("orig_message")).startswith("Dependencies for step ")
    return meta.get("dagster_event") is None and not skipped_step


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        step = f"{meta['step_key']}: " if meta.get("step_key") else ""
        return f"    {step}{meta.get('orig_message', record.getMessage())}"
