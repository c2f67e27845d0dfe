"""Exceptions that a user can act on; `UserError` stops the work, `ItemError` skips one item."""

from textwrap import shorten


class UserError(Exception):
    """A mistake in a user's input or configuration; the command line prints it without a stack trace.

    The message says what was expected, what was found, where, and what to do.
    """


class TooLittleError(UserError):
    """There is too little to learn or to measure from; an optional stage that raises it is switched off."""


class ItemError(Exception):
    """One item is skipped: `reason` is a countable category, `detail` a sentence for the user."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def in_a_line(error: Exception) -> str:
    """Type and shortened message of an error, because some libraries' messages have many lines."""
    return f"{type(error).__name__}: {shorten(str(error), 200, placeholder=' ...')}"
