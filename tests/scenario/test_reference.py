"""The reference page of the scenario is what the schema says."""

from __future__ import annotations

from pathlib import Path

from servetwin.scenario.reference import page
from servetwin.scenario.schema import EngineOptions

PAGE = Path(__file__).parents[2] / "docs" / "scenario.md"


def test_the_page_is_up_to_date() -> None:
    """``docs/scenario.md`` equals what `make docs` would write."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_key_of_the_engine_has_a_meaning() -> None:
    """Each key has its row, with a default or "required" and a meaning."""
    section = page().split("## `cluster[].engine`")[1].split("\n## ")[0]
    rows = {line.split("`")[1]: line for line in section.splitlines() if line.startswith("| `")}
    for name in EngineOptions.model_fields:
        cells = [cell.strip() for cell in rows[name].strip("|").split(" | ")]
        assert len(cells) == 4
        assert all(cells)
