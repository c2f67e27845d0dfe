"""How long work tells how far it is (a leaf)."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # (done, total)
