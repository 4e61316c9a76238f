"""A self-contained page: style, figures and plotly.js in one file that works offline and has no date in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from servetwin.core.errors import InputError

_FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
<p class="subtitle">{subtitle}</p>
</header>
{body}
<footer>Made by Servetwin. Definitions of all metrics: docs/metrics.md.</footer>
</main>
<script type="application/json" id="figures">{figures}</script>
<script>{plotly}</script>
<script>
{script}</script>
</body>
</html>
"""


class Figure(NamedTuple):
    """One chart.

    Attributes
    ----------
    name
        Its id in the page, unique there.
    title, caption
        What it shows; plain text.
    data, layout
        As plotly.js takes them. A colour is a name of the style sheet (``"--c1"``), so that it follows the theme.
    wide
        Whether it takes the whole width.
    """

    name: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    wide: bool = False


def page(title: str, subtitle: str, body: str, figures: Sequence[Figure]) -> str:
    """Return a whole page; ``body`` is HTML and holds the places of the figures (``charts``).

    Raises
    ------
    InputError
        If plotly is not installed.
    """
    data = [{"name": figure.name, "data": figure.data, "layout": figure.layout} for figure in figures]
    return _FRAME.format(
        title=escape(title),
        subtitle=escape(subtitle),
        body=body,
        style=_asset("report.css"),
        script=_asset("report.js"),
        figures=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("</", "<\\/"),
        plotly=_plotly(),
    )


def charts(figures: Sequence[Figure]) -> str:
    """Return a grid with a card for each figure, as HTML."""
    return f'<div class="charts">{"".join(map(_card, figures))}</div>'


def section(heading: str, content: str) -> str:
    """Return a headed part of a page; ``content`` is HTML."""
    return f"<section><h2>{escape(heading)}</h2>{content}</section>"


def _card(figure: Figure) -> str:
    wide = " wide" if figure.wide else ""
    label = escape(f"{figure.title}. {figure.caption}", quote=True)
    return (
        f'<figure class="card{wide}"><h3>{escape(figure.title)}</h3>'
        f'<p class="caption">{escape(figure.caption)}</p>'
        f'<div class="plot" id="{figure.name}" role="img" aria-label="{label}"></div></figure>'
    )


def _asset(name: str) -> str:
    return (files("servetwin.report") / "assets" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """Return plotly.js, read from the plotly package without importing it (that takes a second)."""
    spec = find_spec("plotly")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise InputError(
        "a report needs the package plotly, which is not installed: pip install plotly, or use --no-report"
    )
