"""What many steps compute and move, as columns: operations by number format, bytes of weights, of KV, over links.

`servetwin.step.operators` answers the same for one step, operator by operator; both count alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from servetwin.llm.base import ModelArchitecture
from servetwin.llm.operators import AttentionKernel, Collective, GroupedGemm, RankOperator, operators
from servetwin.llm.parallel import ONE_RANK, Parallelism
from servetwin.step.base import StepShape
from servetwin.step.kernels import causal_pairs

Floats = NDArray[np.float64]

SAMPLER_BYTES_PER_LOGIT = 10


@dataclass(frozen=True, slots=True)
class StepColumns:
    """Steps of one instance, each column of shape ``(steps,)``.

    ``prefill_context``: context of the step's chunks; ``prefill_pairs``: pairs of a new token and one that it attends
    to, without a window; ``decode_prompt_tokens``: prompts of the decodes, where they are known.
    """

    num_decodes: Floats
    decode_kv_tokens: Floats
    num_prefills: Floats
    prefill_tokens: Floats
    prefill_context: Floats
    prefill_pairs: Floats
    decode_prompt_tokens: Floats | None = None

    @classmethod
    def of_shapes(cls, shapes: Sequence[StepShape]) -> StepColumns:
        """Return the columns of some steps."""
        rows = [
            (
                shape.num_decodes,
                shape.decode_kv_tokens,
                len(shape.prefills),
                sum(new for new, _ in shape.prefills),
                sum(context for _, context in shape.prefills),
                sum(causal_pairs(new, context, 0) for new, context in shape.prefills),
                sum(shape.decode_prompts),
            )
            for shape in shapes
        ]
        columns = np.array(rows, dtype=np.float64).reshape(-1, 7).T
        return cls(*columns)

    @property
    def num_tokens(self) -> Floats:
        """Tokens of each step."""
        return self.num_decodes + self.prefill_tokens

    @property
    def num_sequences(self) -> Floats:
        """Requests of each step."""
        return self.num_decodes + self.num_prefills


@dataclass(frozen=True, slots=True)
class WorkColumns:
    """What steps compute and move over all accelerators of an instance, each column of shape ``(steps,)``.

    ``flops``: by number format; ``weight_bytes``: of weights and activations; ``kv_bytes``: of KV and queries in
    attention, ``decode_kv_bytes`` those of decodes; ``link_bytes``: what the accelerators send to each other;
    ``waiting``: share of each step in which they compute nothing, because something else does.
    """

    flops: Mapping[str, Floats]
    weight_bytes: Floats
    kv_bytes: Floats
    decode_kv_bytes: Floats
    link_bytes: Floats
    waiting: Floats | float = 0.0

    @property
    def total_flops(self) -> Floats:
        """Operations of all formats."""
        return np.asarray(sum(self.flops.values(), np.zeros_like(self.kv_bytes)))

    @property
    def total_bytes(self) -> Floats:
        """Bytes to and from the accelerators' own memory."""
        return self.weight_bytes + self.kv_bytes


class StepWork:
    """What a model's steps compute on the accelerators of one instance.

    Parameters
    ----------
    architecture
        The model, in the number format in which it is served.
    ranks
        How it is divided (as seen from any stage).
    kv_cache_dtype
        Format of the KV cache; None: as published.
    """

    def __init__(
        self, architecture: ModelArchitecture, ranks: Parallelism = ONE_RANK, kv_cache_dtype: str | None = None
    ) -> None:
        self.architecture = architecture
        self.ranks = ranks
        self.samples = True
        self.accelerators = ranks.tensor * ranks.pipeline * ranks.prefill_context
        stages = (replace(ranks, stage=stage) for stage in range(ranks.pipeline))
        self.operators: tuple[RankOperator, ...] = tuple(
            op for stage in stages for op in operators(architecture, stage, kv_cache_dtype=kv_cache_dtype)
        )
        self.per_stage = ranks.tensor * ranks.prefill_context

    def of(self, steps: StepColumns) -> WorkColumns:
        """Return the work of some steps."""
        sums = _Sums(steps, self.architecture.dtype)
        applied = _applied(steps, self.ranks)
        for op in self.operators:
            if isinstance(op, Collective):
                sums.link_bytes += _sent_bytes(op, applied[op.applies_to], self.ranks)
            elif isinstance(op, AttentionKernel):
                sums.attend(op, self.ranks.prefill_context)
            else:
                sums.multiply(op, applied[op.applies_to])
        sums.weight_bytes += steps.num_sequences * self._sampler_bytes
        return sums.over(self.per_stage)

    def of_shape(self, shape: StepShape) -> WorkColumns:
        """Return the work of one step."""
        return self.of(StepColumns.of_shapes([shape]))

    @property
    def _sampler_bytes(self) -> float:
        """Bytes per sequence that one of the ranks' parts of the sampler moves."""
        if self.ranks.part == "ffn":
            return 0.0
        return self.samples * self.architecture.vocab_size * SAMPLER_BYTES_PER_LOGIT / self.ranks.tensor


class _Sums:
    """Adds up operators on one rank of each stage."""

    def __init__(self, steps: StepColumns, dtype: str) -> None:
        self.steps = steps
        self.dtype = dtype
        self.flops: dict[str, Floats] = {}
        self.weight_bytes, self.kv_bytes, self.decode_kv_bytes, self.link_bytes = (
            np.zeros(len(steps.num_decodes)) for _ in range(4)
        )

    def multiply(self, op: RankOperator, rows: Floats) -> None:
        assert not isinstance(op, Collective | AttentionKernel)
        some = rows > 0
        if isinstance(op, GroupedGemm):
            active = op.local_experts * (1.0 - (1.0 - op.top_k / op.num_experts) ** rows)
            moved = active * op.expert_bytes + op.rows(1.0) * rows * (op.k + op.n) * op.activation_bytes
        else:
            moved = np.where(some, op.bytes_read(0) + op.bytes_written(0), 0.0)
            moved += rows * (op.bytes_read(1) + op.bytes_written(1) - op.bytes_read(0) - op.bytes_written(0))
        self.weight_bytes += op.count * moved
        weights = getattr(op, "weights", None)
        if weights is not None:
            self._add_flops(weights.activations or self.dtype, op.count * op.flops(1) * rows)

    def attend(self, op: AttentionKernel, context_ranks: int) -> None:
        steps, window = self.steps, op.window
        if op.phase != "prefill":
            seen = steps.decode_kv_tokens + steps.num_decodes
            if window:
                seen = np.minimum(seen, steps.num_decodes * window)
            moved = op.count * (
                op.kv_bytes_per_token * seen / op.context_ranks + op.bytes_per_query * steps.num_decodes
            )
            self.kv_bytes += moved
            self.decode_kv_bytes += moved
            self._add_flops(self.dtype, op.count * op.flops_per_pair / op.context_ranks * seen)
        if op.phase != "decode":
            pairs, context = steps.prefill_pairs / context_ranks, steps.prefill_context
            if window:
                pairs = np.minimum(pairs, steps.prefill_tokens * window)
                context = np.minimum(context, steps.num_prefills * (window - 1))
            new = steps.prefill_tokens / context_ranks
            read = op.kv_bytes_per_token * (steps.prefill_tokens + context / op.context_ranks)
            self.kv_bytes += op.count * (read + op.bytes_per_query * new)
            self._add_flops(self.dtype, op.count * op.flops_per_pair * pairs)

    def over(self, ranks: int) -> WorkColumns:
        """Return the sums over equal ranks."""
        flops = {name: values * ranks for name, values in self.flops.items()}
        return WorkColumns(
            flops,
            self.weight_bytes * ranks,
            self.kv_bytes * ranks,
            self.decode_kv_bytes * ranks,
            self.link_bytes * ranks,
        )

    def _add_flops(self, dtype: str, flops: Floats) -> None:
        self.flops[dtype] = self.flops[dtype] + flops if dtype in self.flops else flops


def _applied(steps: StepColumns, ranks: Parallelism) -> Mapping[str, Floats]:
    """Return what operators are applied to, as `servetwin.step.operators.counts` does for one step."""
    new = steps.prefill_tokens
    tokens = steps.num_decodes + np.ceil(new / ranks.prefill_context)
    return {
        "tokens": tokens,
        "sequences": steps.num_sequences,
        "decode_tokens": steps.num_decodes,
        "prefill_tokens": new,
        "prefill_kv_tokens": new + steps.prefill_context,
        "prefill_context_tokens": steps.prefill_context,
        "chunk_tokens": np.ceil(tokens / ranks.tensor),
        "routed_tokens": steps.num_tokens * ranks.data,
    }


def _sent_bytes(op: Collective, rows: Floats, ranks: Parallelism) -> Floats:
    """Return what one rank sends: a ring's all-reduce 2 (n - 1) / n of the data, other exchanges half of that."""
    size = op.count * op.elements * op.activation_bytes * rows
    if op.kind == "send":
        return size
    sizes = {"tensor": ranks.tensor, "decode_context": ranks.decode_context, "prefill_context": ranks.prefill_context}
    group = sizes.get(op.group, 2)
    return size * ((2.0 if op.kind == "all_reduce" else 1.0) * (group - 1) / group)
