"""Fits a pool's dynamic chunking to its own step times, as SGLang does when it starts."""

from __future__ import annotations

from servetwin.core.errors import InputError
from servetwin.engine.dynamic_chunking import LEAST_ALIGNMENT_TOKENS, DynamicChunking, fit_chunk_times
from servetwin.scenario.hardware import Replica
from servetwin.step.base import StepShape
from servetwin.step.plans.base import ExecutionPlan

CHUNK_SIZES, CONTEXTS = 8, 16
"""How many of each are timed."""


def build_dynamic_chunking(replica: Replica, plan: ExecutionPlan | None) -> DynamicChunking | None:
    """Return how the chunks of a pool's prompts shrink; None where they do not.

    SGLang times 128 prompts of up to 1.25 first chunks on the first stage (``profile_and_init_predictor``). That tells
    little of what a long context costs. As in vLLM Ascend and ATOM, which took the idea over, chunks behind contexts
    are timed here: of a quarter of a first chunk up to a whole one, behind nothing up to all that ``max_model_len``
    allows. The plan says how long they take on the first stage.

    Raises
    ------
    InputError
        If a token's time does not grow with the tokens before it.
    """
    engine = replica.engine
    if not engine.enable_dynamic_chunking or plan is None:
        return None
    chunks = _timed_chunks(engine.max_num_batched_tokens, replica.max_model_len)
    try:
        quadratic_ns, linear_ns = fit_chunk_times(chunks, [_first_stage_ns(plan, chunk) for chunk in chunks])
    except InputError as error:
        raise InputError(str(error), where=f"{replica.where}.engine.enable_dynamic_chunking") from None
    return DynamicChunking(
        quadratic_ns,
        linear_ns,
        engine.max_num_batched_tokens,
        engine.dynamic_chunking_smooth_factor,
        max(engine.block_size, LEAST_ALIGNMENT_TOKENS),
    )


def _timed_chunks(base_tokens: int, longest_tokens: int) -> list[tuple[int, int]]:
    """Return the chunks whose times are fitted, as ``(new_tokens, context_tokens)``."""
    largest = min(base_tokens, longest_tokens)
    smallest = -(-largest // 4)
    sizes = [smallest + (largest - smallest) * i // (CHUNK_SIZES - 1) for i in range(CHUNK_SIZES)]
    return [(size, (longest_tokens - size) * i // (CONTEXTS - 1)) for size in sizes for i in range(CONTEXTS)]


def _first_stage_ns(plan: ExecutionPlan, chunk: tuple[int, int]) -> int:
    """Return how long the first stage is busy with a chunk alone."""
    return plan.stage_times_ns([StepShape(0, 0, (chunk,))] + [None] * (plan.num_ranks - 1))[0].busy_ns
