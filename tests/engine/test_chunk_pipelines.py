"""Chunks of one prompt on all stages of a pipeline that hands over: what must hold by arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
from disaggregation_helpers import pool, run_apart
from engine_helpers import requests
from group_helpers import group, stages
from hypothesis import given
from hypothesis import strategies as st

from servetwin.cluster.base import SimulationOutcome
from servetwin.core.errors import InputError
from servetwin.engine.dynamic_chunking import DynamicChunking, fit_chunk_times
from servetwin.testing.transfers import ConstantTransfers

WHOLE_NS = 48
"""Of one chunk through all layers."""


def prefilled(num_stages: int, chunks: int, *, send_ns: int = 0, **settings: int | bool) -> SimulationOutcome:
    """Return the run of one prompt of so many chunks of four tokens, on equal stages, and of its output elsewhere."""
    plan = stages([WHOLE_NS // num_stages] * num_stages, send_ns=[send_ns] * (num_stages - 1) + [0])
    (spec,) = group(plan, max_num_batched_tokens=4, **settings)
    return run_apart(
        requests((0, 4 * chunks, 3)), [replace(spec, role="prefill"), pool("decode")], lambda: ConstantTransfers(100, 1)
    )


@pytest.mark.parametrize("num_stages", [1, 2, 4, 8])
@pytest.mark.parametrize("chunks", [1, 3, 16])
def test_a_long_prompt_takes_chunks_and_stages_less_one_rounds(num_stages: int, chunks: int) -> None:
    """With p stages and m chunks: (m + p - 1) / (m p) of the time of one stage; the KV goes on afterwards."""
    log = prefilled(num_stages, chunks).requests
    assert log.first_token_ns[0] * num_stages == (chunks + num_stages - 1) * WHOLE_NS
    assert log.transfer_ns[0] == log.handed_over_ns[0] == log.first_token_ns[0]
    assert log.landed_ns[0] == log.transfer_ns[0] + 100 + 4 * chunks


@pytest.mark.parametrize("num_stages", [2, 4])
@pytest.mark.parametrize("chunks", [1, 3, 16])
def test_the_links_between_stages_cost_once_in_as_many_chunks_as_there_are_stages(num_stages: int, chunks: int) -> None:
    """A chunk on its way occupies no stage, but it is one of the p in flight: each p chunks take p stages and links."""
    stage_ns, send_ns = WHOLE_NS // num_stages, 7
    round_ns = WHOLE_NS + (num_stages - 1) * send_ns
    rounds, rest = divmod(chunks - 1, num_stages)
    log = prefilled(num_stages, chunks, send_ns=send_ns).requests
    assert log.first_token_ns[0] == (rounds + 1) * round_ns + rest * stage_ns


def test_without_overlap_stages_gain_nothing() -> None:
    """Where a prompt's next chunk waits for the one before, m chunks take m whole passes."""
    assert prefilled(4, 16, overlap_chunks=False).requests.first_token_ns[0] == 16 * WHOLE_NS


def test_replicas_of_a_pipeline_serve_prompts_side_by_side() -> None:
    """Two pipelines hand over two prompts as fast as one of them one prompt."""
    plan = stages([12, 12])
    (spec,) = group(plan, max_num_batched_tokens=4)
    one = replace(spec, role="prefill")
    other = replace(one, group=1, plan=stages([12, 12]))
    outcome = run_apart(requests((0, 16, 2), (0, 16, 2)), [one, other, pool("decode")])
    assert list(outcome.requests.prefill_instance) == [0, 1]
    assert list(outcome.requests.handed_over_ns) == [5 * 12, 5 * 12]


# Chunks that shrink ---------------------------------------------------------------------------------------------


def test_chunks_shrink_so_that_they_take_equally_long() -> None:
    """With a smooth factor of 1 every chunk takes what the first one does, within what alignment leaves."""
    chunking = DynamicChunking(0.01, 10.0, 4096, smooth_factor=1.0)
    done = 0
    while done < 60_000:
        tokens = chunking.tokens_behind(done)
        longer = 0.01 * (2 * done + tokens) * tokens + 10 * tokens
        aligned_away = (0.01 * 2 * (done + 4096) + 10) * 64
        first = 0.01 * 4096**2 + 10 * 4096
        assert first - aligned_away <= longer <= first or tokens == 1024
        done += tokens


@given(
    st.floats(1e-6, 10),
    st.floats(0, 1e5),
    st.integers(1, 20_000),
    st.floats(0, 1),
    st.sampled_from([1, 16, 64, 256]),
    st.integers(0, 10**6),
)
def test_chunks_stay_between_a_quarter_and_all_of_the_first(
    quadratic: float, linear: float, base: int, smooth: float, alignment: int, context: int
) -> None:
    """They are aligned unless the first one is smaller than that, and never grow with the context."""
    chunking = DynamicChunking(quadratic, linear, base, smooth, alignment)
    tokens = chunking.tokens_behind(context)
    assert min(base, max(alignment, base // 4 - alignment + 1)) <= tokens <= base
    assert tokens % alignment == 0 or tokens == base < alignment
    assert tokens >= chunking.tokens_behind(context + 1000)


def test_no_smoothing_leaves_the_first_chunk_s_size() -> None:
    """A factor of 0 means chunks of one size, as in SGLang."""
    assert DynamicChunking(1.0, 0.0, 4096, smooth_factor=0.0).tokens_behind(100_000) == 4096


def test_the_fit_finds_what_was_put_in() -> None:
    """Times of the form give back their coefficients; times that do not grow are refused."""
    chunks = [(new, context) for new in (256, 512, 1024) for context in (0, 1000, 30_000)]
    times = [0.02 * (new * new + 2 * context * new) + 50 * new + 777 for new, context in chunks]
    assert fit_chunk_times(chunks, times) == pytest.approx((0.02, 50))
    with pytest.raises(InputError, match="later chunks take no longer"):
        fit_chunk_times(chunks, [50.0 * new for new, _ in chunks])


def test_a_step_s_tokens_follow_the_first_open_prompt() -> None:
    """16 tokens first; later less, as the context grows, and the rest of a step goes to the next prompt."""
    chunking = DynamicChunking(1.0, 0.0, 16, smooth_factor=1.0, alignment_tokens=1)
    (spec,) = group(stages([10, 10]), max_num_batched_tokens=16, dynamic_chunking=chunking)  # type: ignore[arg-type]
    outcome = run_apart(requests((0, 30, 2), (0, 8, 2)), [replace(spec, role="prefill"), pool("decode")])
    assert chunking.tokens_behind(16) == 6
    assert [chunking.tokens_behind(done) for done in (22, 27)] == [5, 4]
    assert list(outcome.logs[0].tokens) == [16, 6, 5, 4, 7]
