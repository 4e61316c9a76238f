"""What one rank computes and moves in a step, by operator: the bound that no step model may beat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from servetwin.llm.operators import AttentionKernel, Collective, Items, RankOperator
from servetwin.llm.parallel import ONE_RANK, Parallelism
from servetwin.step.base import StepShape
from servetwin.step.context_parallel import part_of_rank
from servetwin.step.kernels import causal_pairs


class Work(NamedTuple):
    """Floating-point operations, and bytes moved to and from device memory."""

    flops: float
    num_bytes: float

    def __add__(self, other: object) -> Work:
        if not isinstance(other, Work):
            return NotImplemented
        return Work(self.flops + other.flops, self.num_bytes + other.num_bytes)


NO_WORK = Work(0.0, 0.0)


def counts(shape: StepShape, ranks: Parallelism = ONE_RANK) -> Mapping[Items, int]:
    """Return what operators are applied to in a step on one of ``ranks``, all of which have the same batch."""
    new = sum(tokens for tokens, _ in shape.prefills)
    context = sum(tokens for _, tokens in shape.prefills)
    tokens = part_of_rank(shape, ranks.prefill_context).num_tokens
    return {
        "tokens": tokens,
        "sequences": shape.num_sequences,
        "decode_tokens": shape.num_decodes,
        "prefill_tokens": new,
        "prefill_kv_tokens": new + context,
        "prefill_context_tokens": context,
        "chunk_tokens": -(-tokens // ranks.tensor),
        "routed_tokens": shape.num_tokens * ranks.data,
    }


def work_of_step(operators: Iterable[RankOperator], shape: StepShape, ranks: Parallelism = ONE_RANK) -> dict[str, Work]:
    """Return the work of a step by operator; decode and prefill attention apart.

    Windowed attention of decodes counts the window's tokens where the mean context is longer: a shape holds sums only.
    """
    applied = counts(shape, ranks)
    part = part_of_rank(shape, ranks.prefill_context)
    works: dict[str, Work] = {}
    for op in operators:
        if isinstance(op, Collective):
            continue
        if isinstance(op, AttentionKernel):
            parts = {"attention_decode": _decode(op, part), "attention_prefill": _prefill(op, part)}
        else:
            items = applied[op.applies_to]
            moved = op.bytes_read(items) + op.bytes_written(items)
            parts = {op.name: Work(op.count * op.flops(items), op.count * moved) if items else NO_WORK}
        for name, work in parts.items():
            works[name] = works.get(name, NO_WORK) + work
    return works


def _decode(op: AttentionKernel, shape: StepShape) -> Work:
    if op.phase == "prefill":
        return NO_WORK
    n = shape.num_decodes
    seen: float = shape.decode_kv_tokens + n
    if op.window:
        seen = min(seen, n * op.window)
    seen /= op.context_ranks
    moved = op.kv_bytes_per_token * seen + op.bytes_per_query * n
    return Work(op.count * op.flops_per_pair * seen, op.count * moved)


def _prefill(op: AttentionKernel, shape: StepShape) -> Work:
    if op.phase == "decode":
        return NO_WORK
    window = op.window or 0
    flops = moved = 0.0
    for new, context in shape.prefills:
        flops += op.flops_per_pair * causal_pairs(new, context, window)
        seen = new + (min(context, window - 1) if window else context) / op.context_ranks
        moved += op.kv_bytes_per_token * seen + op.bytes_per_query * new
    return Work(op.count * flops, op.count * moved)
