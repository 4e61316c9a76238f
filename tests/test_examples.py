"""Every example runs, and nothing in it is lost."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import servetwin

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_example_scenarios_run(path: Path) -> None:
    """All requests of an example end in exactly one state."""
    requests = servetwin.simulate(path).summary["requests"]
    assert requests["completed"] == requests["total"] > 0


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_programs_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program of the examples runs to its end and prints something."""
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out
