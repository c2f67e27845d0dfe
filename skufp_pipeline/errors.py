"""The two exceptions that say what a user can mend: what stops the work, and what is left out of it."""

from textwrap import shorten


class UserError(Exception):
    """A mistake in a user's input or configuration.

    The message says what was expected, what was found, where, and what to do. The command line
    prints it without a stack trace.
    """


class ItemError(Exception):
    """Why one item is left out: a countable reason and a sentence for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def in_a_line(error: Exception) -> str:
    """Kind and first words of an error; a hub's and torch's run over many lines."""
    return f"{type(error).__name__}: {shorten(str(error), 200, placeholder=' ...')}"
