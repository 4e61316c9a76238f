"""Token times, time series and resources against naive recomputation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_metrics import Naive

from servetwin.core.errors import InputError
from servetwin.metrics.measurements import Measurements
from servetwin.metrics.options import MetricOptions
from servetwin.metrics.resources import RESOURCE_METRICS
from servetwin.metrics.timeline import MAX_INTERVALS, TIMELINE_COLUMNS, most_intervals
from servetwin.testing.outcomes import make_outcome

seeds = st.integers(0, 10**6)
ends = st.sampled_from([None, 0, 5 * 10**8])


@settings(max_examples=40, deadline=None)
@given(seeds, ends)
def test_token_times_are_recovered(seed: int, end_ns: int | None) -> None:
    """First, every and last token's time of each request come back, one by one and all at once."""
    made = make_outcome(seed, end_ns=end_ns)
    measurements = Measurements(made.outcome, MetricOptions())
    for row, times in enumerate(made.token_times_ns):
        assert measurements.token_times_ns(row).tolist() == times
    (table,) = measurements.token_times()
    expected = [(str(row), i, t / 1e9) for row, times in enumerate(made.token_times_ns) for i, t in enumerate(times)]
    assert list(zip(*(column.tolist() for column in table.values()), strict=True)) == expected


@settings(max_examples=30, deadline=None)
@given(seeds, ends, st.sampled_from([1.0, 0.25, 0.01]))
def test_timeline_equals_naive_one(seed: int, end_ns: int | None, interval_s: float) -> None:
    """Every column of every row is what counting token by token and request by request gives."""
    made = make_outcome(seed, requests=12, end_ns=end_ns)
    naive, interval_ns = Naive(made), round(interval_s * 1e9)
    timeline = Measurements(made.outcome, MetricOptions(interval_s=interval_s)).timeline
    assert tuple(timeline) == TIMELINE_COLUMNS
    rows = np.linspace(0, len(timeline["time_s"]) - 1, 15).astype(int)
    for row in rows:
        begin = int(row) * interval_ns
        got = {name: values[row] for name, values in timeline.items()}
        assert got["time_s"] == begin / 1e9
        assert got["output_tokens_per_s"] == pytest.approx(naive.tokens_in(begin, begin + interval_ns) / interval_s)
        assert got["prompt_tokens_per_s"] == pytest.approx(naive.prompts_in(begin, begin + interval_ns) / interval_s)
        assert (got["running"], got["waiting"]) == naive.running_and_waiting(begin)
        assert (got["kv_used_bytes"], got["kv_cached_bytes"]) == naive.kv_bytes(begin)
        assert got["prefix_hit_rate"] == pytest.approx(naive.hit_rate(begin))


@settings(max_examples=30, deadline=None)
@given(seeds, ends)
def test_timeline_holds_every_token(seed: int, end_ns: int | None) -> None:
    """Rates times interval add up to all tokens, whatever the interval."""
    made = make_outcome(seed, end_ns=end_ns)
    measurements = Measurements(made.outcome, MetricOptions(interval_s=0.37))
    summary, timeline = measurements.summary(), measurements.timeline
    assert sum(timeline["output_tokens_per_s"]) * 0.37 == pytest.approx(summary["tokens"]["output"])
    assert sum(timeline["prompt_tokens_per_s"]) * 0.37 == pytest.approx(summary["tokens"]["prompt"])


@settings(max_examples=30, deadline=None)
@given(seeds, ends)
def test_resources_add_up_to_the_timeline(seed: int, end_ns: int | None) -> None:
    """The long table's instances sum to the cluster's columns, in order of time, instance and metric."""
    made = make_outcome(seed, instances=3, end_ns=end_ns)
    measurements = Measurements(made.outcome, MetricOptions())
    table, timeline = measurements.resources, measurements.timeline
    count = len(timeline["time_s"])
    assert list(table) == ["time_s", "kind", "name", "metric", "value"]
    values = table["value"].reshape(count, 3, len(RESOURCE_METRICS))
    assert table["name"][: 2 * len(RESOURCE_METRICS)].tolist() == ["pool-0"] * 7 + ["pool-1"] * 7
    for number, metric in enumerate(RESOURCE_METRICS[:-1]):
        assert set(table["metric"][number :: len(RESOURCE_METRICS)]) == {metric}
        assert values[:, :, number].sum(axis=1) == pytest.approx(timeline[metric].astype(float))


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_busy_time_is_the_time_of_the_steps(seed: int) -> None:
    """Busy shares lie in [0, 1] and add up to the durations of all steps."""
    made = make_outcome(seed, instances=1)
    table = Measurements(made.outcome, MetricOptions(interval_s=0.5)).resources
    busy = table["value"][table["metric"] == "busy_fraction"]
    log = made.outcome.logs[0]
    assert busy.min() >= 0
    assert busy.max() <= 1
    assert busy.sum() * 0.5 == pytest.approx(sum(np.array(log.end_ns) - np.array(log.start_ns)) / 1e9)


def test_too_many_intervals_become_longer_ones() -> None:
    """A tiny interval is replaced by a multiple of it, and the summary says so."""
    made = make_outcome(2, requests=60)
    measurements = Measurements(made.outcome, MetricOptions(interval_s=1e-6))
    assert len(measurements.timeline["time_s"]) <= MAX_INTERVALS
    assert measurements.grid.interval_ns % 1_000 == 0
    assert any("intervals of" in notice for notice in measurements.summary()["notices"])


def test_many_instances_have_fewer_intervals() -> None:
    """The rows of all instances together are bounded, and yet no run is squeezed below 1,000 intervals."""
    assert [most_intervals(count) for count in (1, 2, 8, 1_000_000)] == [MAX_INTERVALS, 1_000_000, 250_000, 1_000]
    made = make_outcome(2, requests=60, instances=8)
    measurements = Measurements(made.outcome, MetricOptions(interval_s=1e-6))
    assert len(measurements.timeline["time_s"]) <= 250_000


def test_an_unknown_request_is_an_input_error() -> None:
    """Asking for the tokens of a request that does not exist says which exist."""
    measurements = Measurements(make_outcome(1).outcome, MetricOptions())
    assert measurements.row("7") == measurements.row(7) == 7
    with pytest.raises(InputError, match=r"unknown request 'x'. There are 30: 0, 1, 2"):
        measurements.row("x")
