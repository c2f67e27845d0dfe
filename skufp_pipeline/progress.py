"""The type of progress callbacks; imports nothing of the package."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # (done, total)
