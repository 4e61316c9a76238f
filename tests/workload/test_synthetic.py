"""Synthetic workloads: what is drawn follows the options, streams are independent, prefixes grow as they should."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workload_helpers import build, options, shared_prefix_lengths

from servetwin.core.errors import InputError
from servetwin.testing.workload_sources import WorkloadSourceConformance
from servetwin.workload.base import NO_PARENT, RELEASED_LATER, Workload, WorkloadSource, workload_sources

SESSIONS = {"count": 60, "turns": {"kind": "uniform", "min": 1, "max": 5}, "think_s": 2}
SYSTEM = {"count": 3, "tokens": {"kind": "uniform", "min": 5, "max": 40}}


class TestIndependent(WorkloadSourceConformance):
    """Requests that share nothing, with mixed models and priorities."""

    def make_source(self) -> WorkloadSource:
        """Return the generator."""
        return options(model={"a": 1, "b": 2}, priority={0: 1, 5: 1}).source()


class TestSessions(WorkloadSourceConformance):
    """Conversations under system prompts."""

    def make_source(self) -> WorkloadSource:
        """Return the generator."""
        return options(requests=None, sessions=SESSIONS, system_prompts=SYSTEM, model={"a": 1, "b": 2}).source()


class TestClosedLoop(WorkloadSourceConformance):
    """Conversations in a closed loop."""

    def make_source(self) -> WorkloadSource:
        """Return the generator."""
        loop = {"kind": "closed_loop", "concurrency": 4, "think_s": {"kind": "exponential", "mean_s": 3}}
        return options(requests=None, sessions=SESSIONS, arrivals=loop).source()


class TestFixedSet(WorkloadSourceConformance):
    """inference-perf's fixed set of prompts."""

    def make_source(self) -> WorkloadSource:
        """Return the generator."""
        return options(prompt_tokens=None, output_tokens=None, shared_prefix={}).source()


def gaps_s(workload: Workload) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the times between arrivals in seconds."""
    return np.diff(workload.arrival_ns) / 1e9


def test_constant_arrivals() -> None:
    """Constant arrivals are evenly spaced from the start on."""
    workload = build(requests=5, arrivals={"kind": "constant", "rate_per_s": 4, "start_s": 1})
    assert workload.arrival_ns.tolist() == [1_000_000_000 + 250_000_000 * i for i in range(5)]


@pytest.mark.parametrize(
    ("arrivals", "cv"),
    [({"kind": "poisson"}, 1.0), ({"kind": "gamma", "cv": 0.5}, 0.5), ({"kind": "gamma", "cv": 3}, 3.0)],
)
def test_random_gaps(arrivals: dict[str, Any], cv: float) -> None:
    """Gaps have the mean 1 / rate and the coefficient of variation that was asked for."""
    gaps = gaps_s(build(requests=200_000, arrivals=arrivals | {"rate_per_s": 8}))
    assert gaps.mean() == pytest.approx(1 / 8, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03)


@pytest.mark.parametrize("process", ["constant", "scattered", "poisson"])
def test_stages(process: str) -> None:
    """Each stage has rate x duration arrivals within its time (about so many for poisson), and a rate of 0 none."""
    stages = [(100, 10), (0, 5), (40, 20)]
    keys = [{"rate_per_s": rate, "duration_s": duration} for rate, duration in stages]
    workload = build(requests=None, arrivals={"kind": "stages", "stages": keys, "process": process})
    counts = np.histogram(workload.arrival_ns / 1e9, bins=[0, 10.000001, 15, 35.000001])[0]
    assert counts.tolist() == pytest.approx([1000, 0, 800], abs=150 if process == "poisson" else 0)
    assert len(workload) == counts.sum()
    spread = gaps_s(workload)[:900].std()
    assert spread == pytest.approx(0 if process == "constant" else 0.01, abs=0.002)


def test_pulses() -> None:
    """A pulse begins the gap after the last arrival of the one before; the rate holds inside a pulse."""
    pulses = {"kind": "pulses", "pulses": 3, "requests_per_pulse": 1000, "gap_s": 60, "start_s": 1}
    assert set(build(requests=None, arrivals=pulses).arrival_ns.tolist()) == {10**9, 61 * 10**9, 121 * 10**9}
    gaps = gaps_s(build(requests=None, arrivals=pulses | {"rate_per_s": 10}))
    assert gaps[[999, 1999]].tolist() == [60, 60]
    assert np.delete(gaps, [999, 1999]).mean() == pytest.approx(0.1, rel=0.1)


def test_fewer_requests_than_the_stages_give() -> None:
    """``requests`` takes the first of them; more than there are is said."""
    pulses = {"kind": "pulses", "pulses": 3, "requests_per_pulse": 10, "gap_s": 60}
    whole, part = build(requests=None, arrivals=pulses), build(requests=12, arrivals=pulses)
    assert part.arrival_ns.tolist() == whole.arrival_ns[:12].tolist()
    more = build(requests=31, arrivals=pulses)
    assert len(more) == 30
    assert more.notices == ["31 arrivals were asked for; the pulses give 30"]


def test_closed_loop() -> None:
    """Nothing arrives by itself; the clients begin at once, and later requests come after a think time."""
    workload = build(requests=10, arrivals={"kind": "closed_loop", "concurrency": 3, "think_s": 2})
    assert workload.concurrency == 3
    assert set(workload.arrival_ns.tolist()) == {RELEASED_LATER}
    assert workload.parent is None
    assert workload.delay_ns is not None
    assert workload.delay_ns.tolist() == [0] * 3 + [2_000_000_000] * 7


def test_log_normal_lengths() -> None:
    """Log-normal lengths have the arithmetic mean and the sigma of the logarithm that were asked for."""
    prompts = build(requests=300_000, prompt_tokens={"kind": "lognormal", "mean": 2000, "sigma": 0.9}).prompt_tokens
    assert prompts.mean() == pytest.approx(2000, rel=0.01)
    assert np.log(prompts).std() == pytest.approx(0.9, rel=0.01)


@pytest.mark.parametrize("kind", [{"kind": "lognormal", "sigma": 1.5}, {"kind": "normal", "std_dev": 300}])
def test_clamped_lengths(kind: dict[str, Any]) -> None:
    """Lengths are clamped to the range, so that both ends occur."""
    prompts = build(requests=3000, prompt_tokens=kind | {"mean": 200, "min": 30, "max": 400}).prompt_tokens
    assert (prompts.min(), prompts.max()) == (30, 400)


def test_uniform_and_fixed_lengths() -> None:
    """A number is a fixed length; uniform lengths take every value of the range, ends included."""
    workload = build(requests=500, prompt_tokens=7, output_tokens={"kind": "uniform", "min": 2, "max": 5})
    assert set(workload.prompt_tokens.tolist()) == {7}
    assert set(workload.output_tokens.tolist()) == {2, 3, 4, 5}


def empirical(column: str, path: str = "lengths.csv.gz") -> dict[str, Any]:
    """Return options of lengths from a file."""
    return {"kind": "empirical", "path": path, "column": column}


def test_empirical_lengths_come_from_one_row(tmp_path: Path) -> None:
    """Prompt and output from one file belong together, from two files not; paths count from the given folder."""
    text = "num_prefill_tokens,num_decode_tokens,ratio\n" + "".join(f"{i},{1000 + i},0.5\n" for i in range(1, 50))
    for name in ("lengths.csv.gz", "other.csv.gz"):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    prompt, output = empirical("num_prefill_tokens"), empirical("num_decode_tokens")
    workload = options(prompt_tokens=prompt, output_tokens=output).at(tmp_path).source().build(1)
    assert set((workload.output_tokens - workload.prompt_tokens).tolist()) == {1000}
    assert len(set(workload.prompt_tokens.tolist())) > 40
    output["path"] = "other.csv.gz"
    workload = options(prompt_tokens=prompt, output_tokens=output).at(tmp_path).source().build(1)
    assert len(set((workload.output_tokens - workload.prompt_tokens).tolist())) > 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "lengths.csv: unknown column 'c'"),
        ("", "lengths.csv: unknown column 'c'"),
        ("c\n", "has a header but no rows"),
        ("c\n1\n\n0\n", r"lengths.csv:4: c is '0'; allowed: whole numbers of 1 to"),
        ("b,c\n1,2\n1\n", r"lengths.csv:3: c is ''"),
        ("c\n1.5\n", r"lengths.csv:2: c is '1.5'"),
    ],
)
def test_bad_files_of_lengths(tmp_path: Path, text: str, message: str) -> None:
    """What is wrong with a file of lengths is named with its line."""
    (tmp_path / "lengths.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        options(prompt_tokens=empirical("c", "lengths.csv")).at(tmp_path).source().build(1)


def test_streams_are_independent() -> None:
    """Changing one distribution leaves all other columns as they are; another seed changes them."""
    base = build(model={"a": 1, "b": 1}, priority={0: 1, 1: 1})
    changed = build(
        model={"a": 1, "b": 1}, priority={0: 1, 1: 1}, output_tokens={"kind": "lognormal", "mean": 9, "sigma": 1}
    )
    assert changed.arrival_ns.tolist() == base.arrival_ns.tolist()
    assert changed.prompt_tokens.tolist() == base.prompt_tokens.tolist()
    assert changed.output_tokens.tolist() != base.output_tokens.tolist()
    assert changed.model == base.model
    other = build(seed=2)
    assert other.arrival_ns.tolist() != base.arrival_ns.tolist()
    assert other.prompt_tokens.tolist() != base.prompt_tokens.tolist()
    faster = build(arrivals={"kind": "poisson", "rate_per_s": 16})
    assert faster.prompt_tokens.tolist() == base.prompt_tokens.tolist()


def test_mixes_follow_their_weights() -> None:
    """Models and priorities occur as often as their weights say, and one of weight 0 never."""
    workload = build(requests=50_000, model={"a": 3, "b": 1, "c": 0}, priority={-1: 1, 4: 4})
    assert workload.model is not None
    assert workload.priority is not None
    assert workload.model.count("a") / 50_000 == pytest.approx(0.75, abs=0.01)
    assert "c" not in workload.model
    assert (workload.priority == 4).mean() == pytest.approx(0.8, abs=0.01)
    assert set(build(model="only", priority=3).model or []) == {"only"}


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("system_prompts", [None, SYSTEM])
def test_a_turn_contains_all_before_it(loop: bool, system_prompts: dict[str, Any] | None) -> None:
    """A turn's prompt is longer than its parent's prompt and answer, and shares all their full blocks and no more."""
    arrivals = {"kind": "closed_loop", "concurrency": 4, "think_s": 1} if loop else {"kind": "poisson", "rate_per_s": 1}
    workload = build(requests=None, arrivals=arrivals, sessions=SESSIONS, system_prompts=system_prompts)
    assert workload.parent is not None
    assert workload.delay_ns is not None
    assert workload.session_id is not None
    total = workload.prompt_tokens + workload.output_tokens
    later = np.flatnonzero(workload.parent != NO_PARENT)
    assert len(later) > 60
    for row in later.tolist():
        parent = int(workload.parent[row])
        assert workload.session_id[row] == workload.session_id[parent]
        assert workload.prompt_tokens[row] > total[parent]
        assert workload.delay_ns[row] == 2_000_000_000
        for block_size in (1, 16):
            assert shared_prefix_lengths(workload, row, parent, block_size) == total[parent] // block_size
    assert len(set(workload.session_id)) == 60
    assert (workload.parent == NO_PARENT).sum() == 60


def test_sessions_share_only_their_system_prompt() -> None:
    """Requests of different sessions share the full blocks of an equal system prompt, and nothing else."""
    workload = build(requests=40, system_prompts={"count": 2, "tokens": 35}, prompt_tokens=10)
    assert workload.session_id is None
    assert set(workload.prompt_tokens.tolist()) == {45}
    shared = {shared_prefix_lengths(workload, 0, other, 16) for other in range(1, 40)}
    assert shared == {0, 35 // 16}
    assert {shared_prefix_lengths(workload, 0, other, 1) for other in range(1, 40)} == {0, 35}


def test_popular_system_prompts() -> None:
    """With an exponent of 1 the first of two system prompts is drawn twice as often as the second."""
    chosen = options(system_prompts={"count": 2, "tokens": 1, "zipf": 1.0}).system_prompts
    assert chosen is not None
    assert chosen.choose(30_000, np.random.default_rng(1)).mean() == pytest.approx(1 / 3, abs=0.01)


def test_sessions_end_before_they_grow_too_long() -> None:
    """With ``max_tokens`` a session has exactly the turns that fit, and always its first."""
    keys = {"prompt_tokens": 30, "output_tokens": 10, "requests": None}
    workload = build(sessions={"count": 3, "turns": 9, "max_tokens": 130}, **keys)
    assert sorted(workload.prompt_tokens.tolist()) == [30] * 3 + [70] * 3 + [110] * 3
    assert len(build(sessions={"count": 3, "turns": 9, "max_tokens": 1}, **keys)) == 3


def test_a_conversation_that_grows_without_end_is_refused() -> None:
    """A conversation beyond the longest prompt is an error that says what to do."""
    sessions = {"count": 1, "turns": 100}
    with pytest.raises(InputError, match=r"allowed: 8388608 \(sessions.max_tokens"):
        build(requests=None, sessions=sessions, prompt_tokens=2**20)
    with pytest.raises(InputError, match="turns in all"):
        build(requests=None, sessions={"count": 3, "turns": 8_000_000})


def test_the_fixed_set_goes_round() -> None:
    """Request i repeats the prompt of request i - set size, with its output length; answers are not shared."""
    shared = {
        "num_groups": 3,
        "num_prompts_per_group": 4,
        "system_prompt_len": 40,
        "question_len": {"kind": "uniform", "min": 9, "max": 20},
        "output_len": {"kind": "normal", "mean": 30, "std_dev": 9, "min": 20, "max": 60},
    }
    workload = build(requests=30, prompt_tokens=None, output_tokens=None, shared_prefix=shared)
    lengths = list(zip(workload.prompt_tokens.tolist(), workload.output_tokens.tolist(), strict=True))
    assert lengths[12:24] == lengths[:12]
    assert lengths[24:] == lengths[:6]
    for row in range(12):
        assert shared_prefix_lengths(workload, row, row + 12, 1) == workload.prompt_tokens[row]
        others = [shared_prefix_lengths(workload, row, other, 1) for other in range(12) if other != row]
        assert sorted(others) == [0] * 8 + [40] * 3


def test_the_fixed_set_is_shuffled() -> None:
    """Prompts of one group do not stand together, and another seed shuffles otherwise."""
    keys = {"requests": 50, "prompt_tokens": None, "output_tokens": None, "shared_prefix": {"num_prompts_per_group": 5}}
    first, second = build(**keys), build(seed=2, **keys)
    groups = [[shared_prefix_lengths(each, 0, row, 1) > 0 for row in range(50)] for each in (first, second)]
    assert sum(groups[0]) == sum(groups[1]) == 5
    assert groups[0] != groups[1]
    assert groups[0][:5] != [True] * 5


def test_a_million_requests_are_columns_only() -> None:
    """A million independent requests are three columns: no names, no contents, and little memory on the way."""
    tracemalloc.start()
    workload = build(requests=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (workload.request_id, workload.session_id, workload.model, workload.contents) == (None, None, None, None)
    assert peak < 64e6


def test_sources_are_registered() -> None:
    """Sources can be made by name."""
    assert {"synthetic", "lss_jsonl", "csv"} <= set(workload_sources.names())
    source = workload_sources.get("synthetic")(
        requests=3, arrivals={"kind": "poisson", "rate_per_s": 1}, prompt_tokens=1, output_tokens=1
    )
    assert len(source.build(1)) == 3
