"""The page on models is written from the code."""

from __future__ import annotations

from pathlib import Path

from servetwin.llm import list_models
from servetwin.llm.families import FAMILIES
from servetwin.llm.formats import QUANTIZED_FORMATS
from servetwin.llm.reference import model_row, page

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_page_is_up_to_date() -> None:
    """`make docs` would change nothing."""
    assert DOCS.read_text(encoding="utf-8") == page()


def test_the_page_has_each_family_format_and_model() -> None:
    """No row is left out."""
    rows = [line for line in page().splitlines() if line.startswith("| ")]
    assert len(rows) == len(FAMILIES) + len(QUANTIZED_FORMATS) + len(list_models()) + 3


def test_a_row_of_the_list() -> None:
    """The list shows family, all and activated parameters, layers, context and format."""
    (entry,) = (entry for entry in list_models() if entry.architecture.name == "openai/gpt-oss-20b")
    assert model_row(entry) == {
        "name": "openai/gpt-oss-20b",
        "family": "gpt_oss",
        "parameters": 20_914_757_184,
        "active": 4_187_440_704,
        "layers": 24,
        "context": 131_072,
        "format": "mxfp4",
    }
