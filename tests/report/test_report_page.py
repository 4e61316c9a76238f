"""The report: one file that works offline, with everything in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from disaggregation_helpers import pool
from engine_helpers import requests
from hypothesis import given
from hypothesis import strategies as st

from servetwin.cluster.base import Disaggregation, routers
from servetwin.cluster.kv_transfers import KvPort, KvTransfers
from servetwin.cluster.simulation import simulate
from servetwin.metrics.measurements import Measurements
from servetwin.metrics.options import MetricOptions
from servetwin.report.distributions import cumulative, distribution
from servetwin.report.figures import MAX_POINTS, lines, thin
from servetwin.report.run_report import run_report
from servetwin.report.tables import duration, number
from servetwin.testing.outcomes import make_outcome


def report(seed: int = 6, *, instances: int = 2, title: str = "A run", interval_s: float = 1.0) -> str:
    """Return the report of a random outcome."""
    measurements = Measurements(
        make_outcome(seed, instances=instances).outcome, MetricOptions(interval_s=interval_s, slo={"ttft_s": 0.1})
    )
    return run_report(measurements, measurements.summary(), title, "of a made-up cluster")


def without_plotly(text: str) -> str:
    """Return a page without its longest script, plotly.js."""
    return text.replace(max(re.findall(r"<script>.*?</script>", text, flags=re.S), key=len), "")


def figures(text: str) -> list[dict[str, object]]:
    """Return the figures of a page."""
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, flags=re.S)
    assert found
    result = json.loads(found.group(1))
    assert isinstance(result, list)
    return result


def test_every_figure_has_its_place() -> None:
    """Each figure's data has an element of that name, and the other way round."""
    text = report()
    assert [figure["name"] for figure in figures(text)] == re.findall(r'class="plot" id="([^"]+)"', text)


def test_nothing_is_loaded_from_elsewhere() -> None:
    """No script, style, image or font of a page comes from a server."""
    text = without_plotly(report())
    assert len(text) < 200_000
    assert not re.search(r"""(src|href)\s*=|url\(|@import""", text)
    assert "https:" not in text


def test_names_are_escaped() -> None:
    """A title with markup is shown, not obeyed."""
    text = report(title="<script>alert(1)</script>")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_instances_are_shown_only_when_there_are_several() -> None:
    """The per-instance view is there for two instances and not for one."""
    assert "<h2>Instances</h2>" in report(instances=2)
    assert "<h2>Instances</h2>" not in report(instances=1)


def test_the_way_from_prefill_to_decode_is_shown_where_there_is_one() -> None:
    """Where time goes, links and transfers over time, and pools; their bars have every part and every class."""
    instances = [replace(pool(role), name=f"{role}-0", pool=role, model="m") for role in ("prefill", "decode")]
    how = Disaggregation(routers.get("random")(seed=0), KvTransfers([KvPort(spec.name, 1e9, 1) for spec in instances]))
    outcome = simulate(requests((0, 8, 3), (5, 9, 3)), instances, routers.get("random")(seed=0), disaggregation=how)
    measurements = Measurements(outcome, MetricOptions())
    text = run_report(measurements, measurements.summary(), "A run", "apart")
    shown = {str(figure["name"]): figure["data"] for figure in figures(text)}
    assert {"breakdown", "links", "moving"} <= set(shown)
    assert [trace["name"] for trace in shown["breakdown"]] == [  # type: ignore[attr-defined]
        "queue", "prefill", "hand-off and transfer", "queue at decode", "decode", "preempted"
    ]  # fmt: skip
    assert {tuple(trace["y"]) for trace in shown["breakdown"]} == {("all", "slowest 10 %", "slowest 1 %")}  # type: ignore[attr-defined]
    assert "<h2>Prefill and decode</h2>" in text
    assert "<h2>Prefill and decode</h2>" not in report()


def test_long_series_are_thinned_out() -> None:
    """No series of a page has more than the allowed number of points, however short the interval."""
    for figure in figures(report(interval_s=0.0005)):
        for trace in figure["data"]:  # type: ignore[attr-defined]
            assert len(trace["x"]) <= MAX_POINTS


@given(st.integers(1, 5 * MAX_POINTS))
def test_thinned_means_keep_the_total(count: int) -> None:
    """Means of groups, weighted by the groups' sizes, give the sum of the series."""
    values = np.arange(count, dtype=float)
    step = -(-count // MAX_POINTS)
    sizes = np.diff(np.append(np.arange(0, count, step), count))
    thinned = thin(values, mean=True)
    assert len(thinned) <= MAX_POINTS
    assert (thinned * sizes).sum() == pytest.approx(values.sum())


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5)), min_size=1, max_size=30))
def test_cumulative_share_counts_values(pairs: list[tuple[float, int]]) -> None:
    """Each share is that of the values that are at most as large."""
    values, weights = np.array([v for v, _ in pairs]), np.array([w for _, w in pairs])
    expanded = np.repeat(values, weights)
    curve = cumulative(values, weights)
    shares = dict(zip(curve.seconds.tolist(), curve.share.tolist(), strict=True))  # of equal values, the last counts
    assert shares == {x: pytest.approx((expanded <= x).mean()) for x in set(expanded.tolist())}


def test_an_objective_is_drawn_only_near_the_curve() -> None:
    """An objective far beyond all values would squeeze the curve, so it is left out."""
    values = {"TTFT": (np.array([0.1, 0.2]), None)}
    assert "shapes" in distribution("n", "t", "c", values, limit_s=0.25).layout
    assert "shapes" not in distribution("n", "t", "c", values, limit_s=2.0).layout


def test_empty_series_can_be_drawn() -> None:
    """A latency that no request has gives a figure without a curve."""
    assert distribution("n", "t", "c", {"TPOT": (np.full(3, np.nan), None)}, limit_s=1.0).data == []
    assert lines("n", "t", "c", np.zeros(1), {"a": np.zeros(1)}, "y").data[0]["y"] == [0.0]


def test_the_last_value_is_held_to_the_end_of_its_interval() -> None:
    """A line over time ends where its last interval ends, so that a single interval can be seen."""
    traces = lines("n", "t", "c", np.array([4.0]), {"a": np.array([7.0])}, "y", interval_s=2.0).data
    assert (traces[0]["x"], traces[0]["y"]) == ([4.0, 6.0], [7.0, 7.0])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.0, "0 s"), (1.5e-6, "1.50 µs"), (0.0123, "12.3 ms"), (0.99996, "1.00 s"), (1234.5, "1,234 s")],
)
def test_durations_are_written_with_three_digits(seconds: float | None, text: str) -> None:
    """Times have a unit that suits them."""
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0, "0"), (7403.2, "7,403"), (3.14159, "3.14"), (12.0, "12")])
def test_numbers_are_written_with_three_digits(value: float | None, text: str) -> None:
    """Large numbers have all their digits before the point."""
    assert number(value) == text
