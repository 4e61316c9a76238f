"""The picture of a sweep: what each varied value does to latency, throughput and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from servetwin.experiment.sweep import Row, varied_paths
from servetwin.report.figures import COLORS, layout
from servetwin.report.page import Figure, charts, page, section
from servetwin.report.tables import number

MAX_LINES = 12
"""Lines in a chart; the rest stands in the table."""


class Metric(NamedTuple):
    """A column of the table that is drawn: its name, what to call it, and how its numbers become those of a unit."""

    column: str
    name: str
    unit: str
    factor: float = 1.0


_METRICS = (
    Metric("ttft_s.mean", "TTFT mean", "s"),
    Metric("ttft_s.p99", "TTFT p99", "s"),
    Metric("tpot_s.mean", "TPOT mean", "s"),
    Metric("e2e_s.p99", "E2E p99", "s"),
    Metric("throughput.output_tokens_per_s", "Output", "tokens/s"),
    Metric("slo.goodput_per_s", "Goodput", "requests/s"),
    Metric("kv.peak_used_fraction", "KV cache peak", "%", 100),
    Metric("preemptions", "Preemptions", "number"),
)


def sweep_page(title: str, rows: Sequence[Row]) -> str:
    """Return a self-contained page: one chart per metric over the first varied path, one line per other combination."""
    paths = varied_paths(rows)
    good = [row for row in rows if not row["error"]]
    metrics = _metrics(good)
    drawn = [_figure(good, paths, metric) for metric in metrics]
    failed = f"; {len(rows) - len(good)} failed" if len(good) < len(rows) else ""
    more = f"; {MAX_LINES} combinations are drawn" if len(_groups(good, paths[1:])) > MAX_LINES else ""
    body = section("Over " + paths[0], charts(drawn)) + section("All points", _table(rows, paths, metrics))
    return page(title, f"{len(rows)} points{failed}{more}", body, drawn)


def _metrics(rows: Sequence[Row]) -> list[Metric]:
    """Return the metrics that are not zero everywhere, short times in milliseconds."""
    found = []
    for metric in _METRICS:
        largest = max((float(row.get(metric.column) or 0) for row in rows), default=0.0)
        if metric.unit == "s" and largest < 2:
            metric = metric._replace(unit="ms", factor=1000.0)
        if largest > 0:
            found.append(metric)
    return found


def _figure(rows: Sequence[Row], paths: Sequence[str], metric: Metric) -> Figure:
    groups = list(_groups(rows, paths[1:]).items())[:MAX_LINES]
    data = [_line(label, group, paths[0], metric, COLORS[i % len(COLORS)]) for i, (label, group) in enumerate(groups)]
    axis = {} if all(_is_number(row[paths[0]]) for row in rows) else {"xaxis": {"type": "category"}}
    caption = " and ".join(paths[1:]) and f"one line per {' and '.join(paths[1:])}"
    form = layout(paths[0], metric.unit, showlegend=len(data) > 1, **axis)
    return Figure(metric.column.replace(".", "-"), metric.name, caption, data, form)


def _line(label: str, rows: Sequence[Row], path: str, metric: Metric, color: str) -> dict[str, Any]:
    numeric = all(_is_number(row[path]) for row in rows)
    points = sorted(rows, key=lambda row: float(row[path])) if numeric else rows
    return {
        "type": "scatter",
        "mode": "lines+markers" if numeric else "markers",
        "name": label,
        "x": [float(row[path]) if numeric else row[path] for row in points],
        "y": [_scaled(row, metric) for row in points],
        "line": {"color": color, "width": 1.8},
        "marker": {"color": color, "size": 6 if numeric else 10},
    }


def _scaled(row: Row, metric: Metric) -> float | None:
    text = row.get(metric.column)
    return float(text) * metric.factor if text else None


def _groups(rows: Sequence[Row], paths: Sequence[str]) -> Mapping[str, list[Row]]:
    """Return the rows by the values of ``paths``, in their order."""
    groups: dict[str, list[Row]] = {}
    names = short_names(paths)
    for row in rows:
        groups.setdefault(", ".join(f"{names[path]} {row[path]}" for path in paths), []).append(row)
    return groups


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Return the end of each path: as many parts as it takes to tell them apart."""
    parts = {path: path.split(".") for path in paths}
    for count in range(1, max((len(words) for words in parts.values()), default=0) + 1):
        names = {path: ".".join(words[-count:]) for path, words in parts.items()}
        if len(set(names.values())) == len(paths):
            return names
    return {path: path for path in paths}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _table(rows: Sequence[Row], paths: Sequence[str], metrics: Sequence[Metric]) -> str:
    """Return all points; the reason stands in place of the results of one that failed."""
    names = [*short_names(paths).values(), *(f"{metric.name}, {metric.unit}" for metric in metrics)]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = []
    for row in rows:
        values = "".join(f"<td>{escape(row[path])}</td>" for path in paths)
        results = "".join(f"<td>{number(_scaled(row, metric))}</td>" for metric in metrics)
        if row["error"]:
            results = f'<td colspan="{max(1, len(metrics))}" class="reason">{escape(row["error"])}</td>'
        lines.append(f"<tr>{values}{results}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
