"""Tables and progress: readable text, and nothing but text where there is no terminal."""

from __future__ import annotations

import io
import sys

import pytest

from servetwin.cli.console import print_table, progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def test_tables_align_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    """Text stands left, numbers right, an absent value is a dash."""
    print_table([{"name": "a", "n": 1234567, "x": 0.5}, {"name": "long", "n": 2, "x": None}])
    assert capsys.readouterr().out.splitlines() == [
        "name          n    x",
        "a     1,234,567  0.5",
        "long          2    -",
    ]
    print_table([])
    assert capsys.readouterr().out == "(none)\n"


def test_progress_shows_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar is drawn on standard error if that is a terminal and nobody asked for quiet."""
    for stream, quiet, shown in ((Terminal(), False, True), (Terminal(), True, False), (io.StringIO(), False, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress("simulating", total=10, quiet=quiet) as advance:
            assert (advance is not None) is shown
            if advance:
                advance(10)
        assert ("simulating" in stream.getvalue()) is shown
