"""Runs the command line inside the test's process, in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_helpers import SCENARIO, Command, Done

from servetwin.cli.main import app


@pytest.fixture
def servetwin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return what runs the command line in a temporary folder, where ``s.yaml`` stands."""
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(SCENARIO, encoding="utf-8")

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = 0
        try:
            app(args=list(arguments), prog_name="servetwin")
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run
