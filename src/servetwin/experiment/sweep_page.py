"""The picture of a sweep: what each varied value does to latency, throughput and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from servetwin.experiment.sweep import Row, varied_paths
from servetwin.report.figures import COLORS, layout
from servetwin.report.page import Figure, charts, page, section

MAX_LINES = 12
"""Lines in a chart; the rest stands in the table."""

_CHARTS = (
    ("ttft_s.mean", "Time to first token, mean", "s"),
    ("ttft_s.p99", "Time to first token, p99", "s"),
    ("tpot_s.mean", "Time per output token, mean", "s"),
    ("e2e_s.p99", "End to end, p99", "s"),
    ("throughput.output_tokens_per_s", "Output tokens", "tokens/s"),
    ("slo.goodput_per_s", "Goodput", "requests/s"),
    ("kv.peak_used_fraction", "KV cache, peak use", "share"),
    ("preemptions", "Preemptions", "count"),
)


def sweep_page(title: str, rows: Sequence[Row]) -> str:
    """Return a self-contained page: one chart per metric over the first varied path, one line per other combination."""
    paths = varied_paths(rows)
    good = [row for row in rows if not row["error"]]
    drawn = [figure for column, name, unit in _CHARTS if (figure := _figure(good, paths, column, name, unit))]
    more = f"; {MAX_LINES} combinations are drawn" if len(_groups(good, paths[1:])) > MAX_LINES else ""
    body = section("Over " + paths[0], charts(drawn)) + section("All points", _table(rows, paths))
    return page(title, f"{len(rows)} points{more}", body, drawn)


def _figure(rows: Sequence[Row], paths: Sequence[str], column: str, name: str, unit: str) -> Figure | None:
    """Return one chart, or None where no point has the metric."""
    if not any(row.get(column) for row in rows):
        return None
    groups = list(_groups(rows, paths[1:]).items())[:MAX_LINES]
    data = [_line(label, group, paths[0], column, COLORS[i % len(COLORS)]) for i, (label, group) in enumerate(groups)]
    axis = {} if all(_is_number(row[paths[0]]) for row in rows) else {"xaxis": {"type": "category"}}
    caption = " and ".join(paths[1:]) and f"one line per {' and '.join(paths[1:])}"
    form = layout(paths[0], unit, showlegend=len(data) > 1, **axis)
    return Figure(column.replace(".", "-"), name, caption, data, form)


def _line(label: str, rows: Sequence[Row], path: str, column: str, color: str) -> dict[str, Any]:
    numeric = all(_is_number(row[path]) for row in rows)
    points = sorted(rows, key=lambda row: float(row[path])) if numeric else rows
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label,
        "x": [float(row[path]) if numeric else row[path] for row in points],
        "y": [float(row[column]) if row.get(column) else None for row in points],
        "line": {"color": color, "width": 1.8},
    }


def _groups(rows: Sequence[Row], paths: Sequence[str]) -> Mapping[str, list[Row]]:
    """Return the rows by the values of ``paths``, in their order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(", ".join(f"{path.split('.')[-1]} {row[path]}" for path in paths), []).append(row)
    return groups


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _table(rows: Sequence[Row], paths: Sequence[str]) -> str:
    columns = [*paths, *(column for column, _, _ in _CHARTS if any(row.get(column) for row in rows))]
    if any(row["error"] for row in rows):
        columns.append("error")
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = ("".join(f"<td>{escape(_short(row.get(column, '')))}</td>" for column in columns) for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _short(text: str) -> str:
    return f"{float(text):.5g}" if _is_number(text) and "." in text else text
