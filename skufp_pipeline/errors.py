"""The one exception that means: a user can mend this, and the message says how."""


class UserError(Exception):
    """A mistake in a user's input or configuration.

    The message says what was expected, what was found, where, and what to do. The command line
    prints it without a stack trace.
    """
