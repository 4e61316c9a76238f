"""Batches recovered from the logs are those that the step model was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import servetwin
from servetwin.energy.model import rows_by_instance
from servetwin.energy.steps import steps_of
from servetwin.step.base import StepModelBase, StepShape
from servetwin.step.operators import work_of_step
from servetwin.step.work_columns import Parallelism, StepColumns, StepWork


class Spy(StepModelBase):
    """Takes a time that follows from the batch, and remembers every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[StepShape] = []

    def duration_ns(self, shape: StepShape) -> int:
        """Return the time."""
        self.shapes.append(shape)
        return 1_000_000 + 1000 * shape.num_tokens + shape.decode_kv_tokens


def spied(blocks: int, **engine: Any) -> tuple[servetwin.Result, Spy]:
    """Simulate a small load on one instance, step by step."""
    spy = Spy()
    scenario = {
        "cluster": [
            {
                "name": "a",
                "engine": {
                    "num_gpu_blocks_override": blocks,
                    "max_num_seqs": 8,
                    "max_num_batched_tokens": 64,
                    **engine,
                },
                "step": {"model": spy},
            }
        ],
        "workload": {
            "kind": "synthetic",
            "requests": 40,
            "arrivals": {"kind": "poisson", "rate_per_s": 100},
            "prompt_tokens": {"kind": "uniform", "min": 1, "max": 150},
            "output_tokens": {"kind": "uniform", "min": 1, "max": 40},
        },
    }
    return servetwin.simulate(scenario), spy


def columns_of(result: servetwin.Result) -> StepColumns:
    """Return the recovered batches."""
    outcome = result.outcome
    return steps_of(outcome, 0, rows_by_instance(outcome)[0]).columns


def test_batches_are_recovered_exactly() -> None:
    """Without preemption every sum of every step is what the step model was given."""
    result, spy = spied(1000)
    ours, asked = columns_of(result), StepColumns.of_shapes(spy.shapes)
    for name in (
        "num_decodes",
        "decode_kv_tokens",
        "num_prefills",
        "prefill_tokens",
        "prefill_context",
        "prefill_pairs",
    ):
        assert np.array_equal(getattr(ours, name), getattr(asked, name)), name


def test_preemptions_leave_decodes_exact_and_prompts_complete() -> None:
    """With preemptions decodes and their contexts stay exact, and no prompt token is lost."""
    result, spy = spied(14)
    assert result.summary["preemptions"] > 0
    ours, asked = columns_of(result), StepColumns.of_shapes(spy.shapes)
    assert np.array_equal(ours.num_decodes, asked.num_decodes)
    assert np.array_equal(ours.decode_kv_tokens, asked.decode_kv_tokens)
    assert ours.prefill_tokens == pytest.approx(asked.prefill_tokens, abs=1e-3)


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "google/gemma-3-12b-it", "Qwen/Qwen3-30B-A3B"])
def test_work_in_columns_is_work_step_by_step(name: str) -> None:
    """Operations are those of the operators, and bytes with the sampler's on top, over all ranks."""
    work = StepWork(servetwin.llm.catalogue.load_model(name), Parallelism(tensor=2))
    shapes = [StepShape(7, 7000), StepShape(3, 400, ((500, 0),)), StepShape(0, 0, ((90, 100),))]
    columns = work.of(StepColumns.of_shapes(shapes))
    for i, shape in enumerate(shapes):
        single = work_of_step(work.operators, shape, work.ranks).values()
        sampler = shape.num_sequences * work.architecture.vocab_size * 10
        assert columns.total_flops[i] == pytest.approx(2 * sum(part.flops for part in single), rel=1e-12)
        assert columns.total_bytes[i] == pytest.approx(2 * sum(part.num_bytes for part in single) + sampler, rel=1e-12)
