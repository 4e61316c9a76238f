"""The summary against naive recomputation, and what it says in special cases."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_metrics import Naive, same

from servetwin.cluster.base import FrontEnd, SimulationOutcome
from servetwin.core.errors import InputError
from servetwin.engine.base import COMPLETED, RequestLog
from servetwin.metrics.measurements import Measurements
from servetwin.metrics.options import MetricOptions
from servetwin.testing.outcomes import make_outcome
from servetwin.workload.base import Workload

LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s")
COMMON = ["requests", "tokens", "duration_s", "steps", "preemptions", "throughput", *LATENCIES]
COMMON += ["breakdown_s", "slo", "kv"]

seeds = st.integers(0, 10**6)


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([0.0, 1.0, 100.0]), st.sampled_from([None, 1, 2 * 10**9]))
def test_latencies_equal_naive_ones(seed: int, warmup_s: float, end_ns: int | None) -> None:
    """Every statistic of every latency is that of the plain list, with warm-up and for interrupted runs, too."""
    made = make_outcome(seed, end_ns=end_ns)
    summary = Measurements(made.outcome, MetricOptions(warmup_s=warmup_s)).summary()
    naive = Naive(made, warmup_ns=round(warmup_s * 1e9))
    for name in LATENCIES:
        assert same(summary[name], naive.latencies(name)), name


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_instances_have_the_same_keys_and_add_up(seed: int) -> None:
    """Counts of the instances add up to those of the cluster, except for requests that no instance was given."""
    made = make_outcome(seed, instances=3)
    summary = Measurements(made.outcome, MetricOptions()).summary()
    log, instances = made.outcome.requests, summary["instances"]
    for entry in instances:
        assert list(entry) == ["name", "pool", "device", "model", *COMMON]
    for path in (
        "tokens.output",
        "tokens.prompt",
        "tokens.cached",
        "requests.completed",
        "throughput.output_tokens_per_s",
    ):
        group, key = path.split(".")
        assert sum(entry[group][key] for entry in instances) == pytest.approx(summary[group][key])
    assert summary["requests"]["total"] == len(log.state)
    homeless = sum(number < 0 for number in log.instance)
    assert sum(entry["requests"]["total"] for entry in instances) == len(log.state) - homeless
    assert sum(entry["steps"] for entry in instances) == summary["steps"]


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([None, 10**9]))
def test_an_instance_is_measured_as_if_it_were_alone(seed: int, end_ns: int | None) -> None:
    """Latencies of an instance are those of its own requests."""
    made = make_outcome(seed, instances=3, end_ns=end_ns)
    summary = Measurements(made.outcome, MetricOptions()).summary()
    for number, entry in enumerate(summary["instances"]):
        times = [
            t if i == number else [] for t, i in zip(made.token_times_ns, made.outcome.requests.instance, strict=True)
        ]
        gaps = [
            (b - a) / 1e9
            for row, mine in enumerate(times)
            if made.outcome.requests.state[row] == COMPLETED
            for a, b in pairwise(mine)
        ]
        assert same(entry["itl_s"], gaps)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_tokens_are_conserved(seed: int) -> None:
    """Output tokens of a complete run are the stated lengths of the completed requests."""
    made = make_outcome(seed)
    summary = Measurements(made.outcome, MetricOptions()).summary()
    done = np.array(made.outcome.requests.state) == COMPLETED
    assert summary["tokens"]["output"] == made.outcome.workload.output_tokens[done].sum()
    assert summary["tokens"]["prompt"] == made.outcome.workload.prompt_tokens[done].sum()
    assert not summary["incomplete"]


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(0.001, 1.0), st.floats(0.001, 0.5))
def test_goodput_counts_requests_that_meet_every_objective(seed: int, ttft_s: float, tpot_s: float) -> None:
    """Goodput is the number of requests that meet all objectives, over the time in which they were measured."""
    made = make_outcome(seed)
    options = MetricOptions(warmup_s=1.0, slo={"ttft_s": ttft_s, "tpot_s": tpot_s})
    measurements = Measurements(made.outcome, options)
    summary, log, good = measurements.summary(), made.outcome.requests, 0
    for row in Naive(made, warmup_ns=10**9).rows():
        times = made.token_times_ns[row]
        slow = len(times) > 1 and (times[-1] - times[0]) / (len(times) - 1) / 1e9 > tpot_s
        good += (times[0] - log.arrival_ns[row]) / 1e9 <= ttft_s and not slow
    records = measurements.records
    measured_s = (records.stop_ns - max(records.start_ns, 10**9)) / 1e9
    assert summary["slo"]["goodput_per_s"] == pytest.approx(good / measured_s if measured_s > 0 else 0.0)


def test_key_order_and_json() -> None:
    """The summary has the documented keys in their order, and no number that JSON does not know."""
    summary = Measurements(make_outcome(1).outcome, MetricOptions()).summary(seed=7, scenario_hash="abc")
    head = ["schema_version", "seed", "scenario_hash", "incomplete"]
    assert list(summary) == [*head, *COMMON, "instances", "notices"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["seed"], summary["scenario_hash"]) == (7, "abc")


def test_client_latencies_are_the_servers_plus_the_front_end() -> None:
    """With a front-end model, both latencies grow by its two delays, and only then are they there."""
    front_end = FrontEnd(request_ns=2_000_000, response_ns=3_000_000)
    with_one = Measurements(make_outcome(5, front_end=front_end).outcome, MetricOptions())
    without = Measurements(make_outcome(5).outcome, MetricOptions())
    summary = with_one.summary()
    for name in ("ttft_s", "e2e_s"):
        for statistic, value in summary["client"][name].items():
            assert value == pytest.approx(summary[name][statistic] + 0.005)
        difference = with_one.requests[f"client_{name}"] - with_one.requests[name]
        assert np.nanmax(np.abs(difference - 0.005)) < 1e-12
    assert "client" not in without.summary()
    assert "client_ttft_s" not in without.requests


def test_a_run_without_any_completed_request_has_no_latencies() -> None:
    """Latencies and attainment are None, throughput and goodput zero."""
    outcome = make_outcome(3, requests=4, instances=1).outcome
    workload = Workload(outcome.workload.arrival_ns, outcome.workload.prompt_tokens, outcome.workload.output_tokens)
    empty = SimulationOutcome(workload, outcome.instances, RequestLog.of_size(4), [type(outcome.logs[0])()])
    summary = Measurements(empty, MetricOptions(slo={"ttft_s": 1.0})).summary()
    assert set(summary["ttft_s"].values()) == set(summary["itl_s"].values()) == {None}
    assert summary["slo"] == {"attainment": {"ttft_s": None}, "goodput_per_s": 0.0}
    assert summary["throughput"]["requests_per_s"] == 0.0
    assert summary["requests"]["by_state"] == {"unfinished": 4, "completed": 0, "rejected": 0}


def test_rejections_are_noticed() -> None:
    """Rejected requests are counted and said, with the reason."""
    summary = Measurements(make_outcome(0).outcome, MetricOptions()).summary()
    rejected = summary["requests"]["rejected"]
    assert rejected > 0
    assert summary["notices"][0].startswith(f"{rejected} of 30 requests were rejected: prompt + output exceed")
    assert "made" in summary["notices"]


def test_hit_rate_ignores_instances_without_a_prefix_cache() -> None:
    """Prompts on an instance whose prefix caching is off are not looked up."""
    made = make_outcome(8, instances=2)
    outcome = made.outcome
    off = outcome.instances[0].settings.__class__(num_blocks=60, max_model_len=99, enable_prefix_caching=False)
    spec = outcome.instances[0].__class__(
        **{name: getattr(outcome.instances[0], name) for name in outcome.instances[0].__slots__} | {"settings": off}
    )
    outcome.instances = [spec, outcome.instances[1]]
    summary = Measurements(outcome, MetricOptions()).summary()
    assert summary["instances"][0]["kv"]["prefix_hit_rate"] == 0.0
    assert summary["kv"]["prefix_hit_rate"] == summary["instances"][1]["kv"]["prefix_hit_rate"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval_s": 0.0}, "output.interval_s"),
        ({"interval_s": float("nan")}, "output.interval_s"),
        ({"warmup_s": -1.0}, "output.warmup_s"),
        ({"slo": {"ttft": 1.0}}, "did you mean 'ttft_s'"),
        ({"slo": {"ttft_s": float("nan")}}, "slo.ttft_s"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    """A bad option is an input error that names its key."""
    with pytest.raises(InputError, match=message):
        MetricOptions(**options)  # type: ignore[arg-type]
