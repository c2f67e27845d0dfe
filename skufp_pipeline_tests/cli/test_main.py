"""The command line as a whole."""

import sys

import pytest

from .asking import ask, refused


def test_windows_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert refused(ask("report")) == "skufp runs on Linux and macOS; on Windows, run it inside WSL 2"


def test_help_names_every_command() -> None:
    shown = ask("-h").stdout
    assert all(name in shown for name in ("demo", "doctor", "export", "materialize", "report", "search"))
