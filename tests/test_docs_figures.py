"""The pages of docs/ quote what ``docs/figures.py`` prints."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def figures() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("section", "page"),
    [
        ("pim_attention", "pim.md"),
        ("pim_interleaving", "pim.md"),
        ("pim_decode_side", "pim.md"),
        ("shared_links", "disaggregation.md"),
        ("chunk_pipelines", "disaggregation.md"),
    ],
)
def test_the_page_has_the_figures(section: str, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every number behind a colon, or in a line of numbers alone, stands on its page."""
    getattr(figures(), section)()
    text = (DOCS / page).read_text(encoding="utf-8")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    numbers = [number for line in lines for number in re.findall(r"\d[\d,]*\.?\d*", line.rpartition(": ")[2])]
    assert len(numbers) > 4
    assert [number for number in numbers if not re.search(rf"(?<![\d.,]){re.escape(number)}(?!\d)", text)] == []
