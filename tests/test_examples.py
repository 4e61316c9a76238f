"""Every example runs, and nothing in it is lost."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import servetwin
from servetwin.scenario.yaml_source import parse_yaml

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


def test_the_readme_is_true(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The scenario and the program in the README run as they stand there."""
    text = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    (scenario,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    (program,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert servetwin.simulate(parse_yaml(scenario, "README.md").data).summary["requests"]["completed"] == 1000
    monkeypatch.chdir(EXAMPLES.parent)
    exec(program, {})
    assert capsys.readouterr().out


DOCS = [EXAMPLES.parent / name for name in ("README.md", "CONTRIBUTING.md")]
DOCS += sorted((EXAMPLES.parent / "docs").glob("*.md"))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_links_of_the_docs_lead_somewhere(path: Path) -> None:
    """A relative link names a file that is there."""
    text = path.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (path.parent / link).exists()] == []
