"""The roofline: step times from a model's config and a device's data sheet, without any measured profile.

Each kernel takes a fixed cost and a mix of computing and moving data that is never below either, at efficiencies fitted
per family of devices (`servetwin.step.efficiency`). Collectives, the sampler and the host come on top. Kernels run one
after another, so their times add up; where the host launches them one by one, the step takes at least as long as that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from servetwin.core.errors import InputError
from servetwin.core.number_formats import number_format
from servetwin.core.units import NS_PER_S, NS_PER_US
from servetwin.hardware.base import Device
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.checks import check_parallelism
from servetwin.llm.operators import (
    AttentionKernel,
    Collective,
    Elementwise,
    Gemm,
    GroupedGemm,
    Items,
    RankOperator,
    operators,
)
from servetwin.llm.parallel import Parallelism
from servetwin.network.base import Collectives
from servetwin.step.base import StepModelBase, StepShape, step_models
from servetwin.step.bounds import bounds_ns
from servetwin.step.context_parallel import part_of_rank
from servetwin.step.decode_time import DecodeTime, Root
from servetwin.step.efficiency import Efficiency, family_efficiency
from servetwin.step.exchange import Exchange
from servetwin.step.experts.base import ExpertRouting
from servetwin.step.graphs import LARGEST, padded, padded_tokens
from servetwin.step.host import HOSTS, HostOverhead
from servetwin.step.kernels import Kernels, Numbers
from servetwin.step.memo import Memo, RowTimes
from servetwin.step.operators import Work, counts, work_of_step
from servetwin.step.plans.base import NOTHING_SHARED, SharedTime
from servetwin.step.routed_experts import BACKENDS, ROUTED, RoutedExperts

DEFAULT_HOST_OVERHEAD = HOSTS["vllm-0.19"]
"""What vLLM V1 adds where its host work is not hidden: scheduling, input preparation, sampling, output handling."""

SAMPLER_BYTES_PER_LOGIT = 10
"""The sampler reads each logit in 16 bits, writes it in fp32, and reads that once to find the token."""

EXCHANGING_MULTIPROCESSORS = 20
"""Kept for exchanging when two batches overlap (vLLM's ``VLLM_DBO_COMM_SMS``)."""

NOT_WINDOWED = float("inf")

SENT = ("pipeline_send", "pipeline_gather")
"""Operators that take a batch to the next stage: no part of the stage's own time."""


@step_models.register("roofline")
class RooflineStepModel(StepModelBase):
    """Step times of a model on equal devices, or of one of its pipeline stages (a `RankModel`).

    As a step model it is a replica by itself; with data parallelism, one whose ranks all have the same batch. Of ranks
    that hold only the FFNs, it is without sampler, host and all that attention takes.

    Parameters
    ----------
    architecture, device
        The model and the accelerator.
    tensor_parallel_size, data_parallel_size
        Ranks that divide each layer, and ranks with batches of their own that share the routed experts; more than one
        needs ``collectives``.
    collectives
        What collectives among the accelerators take.
    dtype, kv_cache_dtype
        Number formats of plain weights and activations, and of the KV cache (None: as published).
    host
        What the host adds to a batch; the first pipeline stage has it.
    efficiency
        The coefficients; a mapping changes some of those of the device's family (None: all as they are).
    enforce_eager
        Whether the host launches every kernel (vLLM's ``enforce_eager``): no CUDA graphs, no padding.
    ranks
        Everything about parallelism, in place of the two sizes above (None: these alone).
    experts
        Which experts tokens take (None: evenly spread, by expectation).
    all2all_backend
        How tokens travel to experts, see `servetwin.step.routed_experts.BACKENDS`.

    Raises
    ------
    InputError
        If the ranks do not divide the model, or the device has no peak for a format.
    """

    divides_layers = True
    """Whether it times attention and FFN apart, see `Parallelism.part`; other step models may say so, too."""

    def __init__(
        self,
        architecture: ModelArchitecture,
        device: Device,
        tensor_parallel_size: int = 1,
        collectives: Collectives | None = None,
        dtype: str | None = None,
        kv_cache_dtype: str | None = None,
        host: HostOverhead = DEFAULT_HOST_OVERHEAD,
        efficiency: Efficiency | Mapping[str, float] | None = None,
        enforce_eager: bool = False,
        data_parallel_size: int = 1,
        ranks: Parallelism | None = None,
        experts: ExpertRouting | None = None,
        all2all_backend: str = BACKENDS[0],
    ) -> None:
        super().__init__()
        self.ranks = ranks = _ranks(ranks, tensor_parallel_size, data_parallel_size)
        check_parallelism(architecture, ranks)
        if dtype is not None:
            architecture = replace(architecture, dtype=number_format(dtype))
        self.architecture = architecture
        self.device = device
        self.tensor_parallel_size = ranks.tensor
        self.host = host
        self.efficiency = _efficiency(device, efficiency)
        self.enforce_eager = enforce_eager
        self.graph_limit = 0 if enforce_eager else LARGEST
        self._exchange = Exchange(collectives, ranks, self.efficiency.collective_bandwidth)
        self._kernels = Kernels(device, self.efficiency, architecture.dtype)
        every = operators(architecture, ranks, kv_cache_dtype=kv_cache_dtype)
        self.operators = tuple(op for op in every if op.name not in SENT)
        self._sent = tuple(op for op in every if isinstance(op, Collective) and op.name in SENT)
        _check_formats(device, architecture, self.operators)
        attention = [op for op in self.operators if isinstance(op, AttentionKernel)]
        self._decode_kinds = [self._kernels.decode_attention(op) for op in attention if op.phase != "prefill"]
        self._prefill_kinds = [self._kernels.prefill_attention(op) for op in attention if op.phase != "decode"]
        self._set_experts(experts, all2all_backend)
        self._set_times()

    def _set_experts(self, routing: ExpertRouting | None, backend: str) -> None:
        self._experts: RoutedExperts | None = None
        self.expert_layers = 0
        if any(op.name in ROUTED for op in self.operators):
            parts = (self._kernels, self._exchange, routing, backend)
            self._experts = RoutedExperts(self.architecture, self.ranks, self.operators, *parts)
            self.expert_layers = self._experts.num_layers
            self.notices += self._experts.notices
        self._draws = self._experts is not None and self._experts.draws
        self.all2all_backend = self._experts.backend if self._experts else backend
        if self._experts and routing:
            self.needs = frozenset(routing.needs)

    def _set_times(self) -> None:
        layers = sum(copies for _, copies in self.architecture.stage_layers(self.ranks))
        layers = layers if self.ranks.part != "ffn" else 0  # that attend
        efficiency = self.efficiency
        decode_us = efficiency.decode_us
        self._mixed_share = efficiency.mixed_bandwidth
        host = self.host if self.ranks.is_first_stage and layers else HostOverhead()
        self._host_ns = RowTimes(lambda rows: host.per_step_us * NS_PER_US + host.per_request_us * NS_PER_US * rows)
        self._decode_fixed_ns = layers * (efficiency.layer_us + decode_us) * NS_PER_US
        self._prefill_fixed_ns = layers * (efficiency.layer_us + max(efficiency.prefill_us, decode_us)) * NS_PER_US
        self._own_tokens_ns = RowTimes(self._token_operators_ns)
        self._sequences_ns = RowTimes(lambda n: self._of("sequences", n) + self._sampler_ns(n))
        self._first_chunk_ns = Memo[int, float](lambda new: self._chunk_ns(new, 0))
        self._decode_tokens_ns = self._row_times("decode_tokens")
        self._prefill_tokens_ns = self._row_times("prefill_tokens")
        self._prefill_kv_ns = self._row_times("prefill_kv_tokens")
        self._prefill_context_ns = self._row_times("prefill_context_tokens")
        items = {op.applies_to for op in self.operators if not isinstance(op, AttentionKernel)}
        self._splits_phases = bool(items - {"tokens", "sequences", "routed_tokens", "chunk_tokens"})
        self._tokens_ns = self._with_experts()
        self._decodes = Memo[int, DecodeTime](lambda n: self._decode_time(n, self._tokens_ns[n], n, self._floor_ns))
        self._own_decodes = Memo[tuple[int, int, int], DecodeTime](self._own_decode_time)
        launches = sum(op.count for op in self.operators) if self.enforce_eager else 0
        self._floor_ns = launches * self.device.launch.eager_us * NS_PER_US
        # What is drawn anew for each step, and chunks that several ranks divide, are put together from their parts.
        self._in_parts = self._draws or self.ranks.prefill_context > 1

    def _row_times(self, items: Items) -> RowTimes:
        return RowTimes(lambda rows: self._of(items, rows))

    def _token_operators_ns(self, rows: Numbers) -> Numbers:
        rows = self._padded(rows)
        return self._of("tokens", rows) + self._of("chunk_tokens", np.ceil(rows / self.ranks.tensor))

    def _with_experts(self) -> dict[int, float]:
        """Return the time of all that runs over tokens, experts included, by a replica's tokens."""
        if self._experts is None or self._draws:
            return self._own_tokens_ns
        if self._experts.is_closed_form:
            return RowTimes(lambda rows: self._token_operators_ns(rows) + self._of("routed_tokens", self._padded(rows)))
        return Memo[int, float](lambda rows: self._own_tokens_ns[rows] + self._alike_ns(rows))

    def _alike_ns(self, tokens: int, draw: int = 0) -> float:
        """Return the time of the routed experts where all data-parallel ranks have so many tokens."""
        return self.shared_ns((tokens,) * self.ranks.data, draw) if self._experts else 0.0

    def duration_ns(self, shape: StepShape) -> int:
        """Return the step's time; O(1) for decodes, O(chunks) with prefills."""
        if self._in_parts:
            return self._duration_in_parts_ns(shape)
        n = shape.num_decodes
        if not shape.prefills:
            return self._decodes[n].step_ns(shape.decode_kv_tokens)
        tokens = n
        chunks_ns = 0.0
        for new, context in shape.prefills:
            tokens += new
            chunks_ns += self._first_chunk_ns[new] if not context else self._chunk_ns(new, context)
        sequences = n + len(shape.prefills)
        total = self._prefill_fixed_ns + self._tokens_ns[tokens] + self._sequences_ns[sequences] + chunks_ns
        if self._splits_phases:
            total += self._phases_ns(shape)
        if n:
            total = self._decodes[n].added_to(total, shape.decode_kv_tokens, self._mixed_share)
        if total < self._floor_ns:
            total = self._floor_ns
        return round(total + self._host_ns[sequences]) or 1

    def _duration_in_parts_ns(self, shape: StepShape) -> int:
        tokens = shape.num_tokens
        return round(self.own_ns(shape, tokens, shape.num_sequences) + self._alike_ns(tokens, shape.draw)) or 1

    def own_ns(self, shape: StepShape, num_tokens: int, num_sequences: int) -> float:
        """See `RankModel`; rows are padded to the sizes of CUDA graphs here, too."""
        n = shape.num_decodes
        if not shape.prefills:
            return self._own_decodes[n, num_tokens, num_sequences].exact_ns(shape.decode_kv_tokens)
        part = part_of_rank(shape, self.ranks.prefill_context)
        rows = max(part.num_tokens, -(-num_tokens // self.ranks.prefill_context))
        total = self._prefill_fixed_ns + self._own_tokens_ns[rows] + self._sequences_ns[num_sequences]
        for new, context in part.prefills:
            total += self._first_chunk_ns[new] if not context else self._chunk_ns(new, context)
        if self._splits_phases:
            total += self._phases_ns(shape)
        if n:
            total = self._decodes[n].added_to(total, shape.decode_kv_tokens, self._mixed_share)
        return max(total, self._own_floor_ns(num_tokens)) + self._host_ns[num_sequences]

    def _own_decode_time(self, key: tuple[int, int, int]) -> DecodeTime:
        n, num_tokens, num_sequences = key
        return self._decode_time(n, self._own_tokens_ns[num_tokens], num_sequences, self._own_floor_ns(num_tokens))

    def _own_floor_ns(self, num_tokens: int) -> float:
        """Return what launches leave of a step that the experts' part does not fill."""
        return max(0.0, self._floor_ns - self._alike_ns(num_tokens)) if self._floor_ns else 0.0

    def shared_ns(self, tokens: Sequence[int], draw: int) -> float:
        """See `RankModel`; each rank's tokens are padded to the sizes of CUDA graphs here, too."""
        return self.shared_parts_ns(tokens, draw).total_ns if self._experts else 0.0

    def shared_parts_ns(self, tokens: Sequence[int], draw: int) -> SharedTime:
        """See `OverlapModel`."""
        if self._experts is None:
            return NOTHING_SHARED
        return self._experts.shared_parts_ns(self._sent_tokens(tokens), draw)

    def _sent_tokens(self, tokens: Sequence[int]) -> Sequence[int]:
        return tokens if self.enforce_eager else [padded_tokens(number) for number in tokens]

    @property
    def routed(self) -> RoutedExperts | None:
        """The routed experts; None where this rank has none."""
        return self._experts

    @property
    def launches_ns(self) -> float:
        """What the host needs to launch a step's kernels one by one; 0 where CUDA graphs do."""
        return self._floor_ns

    @property
    def overlap_slowdown(self) -> float:
        """See `OverlapModel`: DeepEP's high-throughput kernels keep multiprocessors, its low-latency ones do not."""
        cores = self.device.multiprocessors or 0
        if self.all2all_backend != "deepep_high_throughput" or cores <= EXCHANGING_MULTIPROCESSORS:
            return 1.0
        return cores / (cores - EXCHANGING_MULTIPROCESSORS)

    def once_ns(self, num_sequences: int) -> float:
        """See `OverlapModel`."""
        return self._sequences_ns[num_sequences] + self._host_ns[num_sequences]

    def send_ns(self, num_tokens: int) -> float:
        """See `RankModel`: hidden states and residual, each tensor-parallel rank a part, which they then gather."""
        if not self._sent:
            return 0.0
        rows = self._padded(np.array([float(-(-num_tokens // self.ranks.prefill_context))]))
        return sum(float(self._operator_ns(op, rows)[0]) for op in self._sent)

    def _chunk_ns(self, new: int, context: int) -> float:
        return sum([kind.chunk_ns(new, context) for kind in self._prefill_kinds])

    def _phases_ns(self, shape: StepShape) -> float:
        """Return the time of operators that only decodes or only prompts run (MLA, divided contexts)."""
        applied = counts(shape)
        times_ns = self._decode_tokens_ns[applied["decode_tokens"]] + self._prefill_tokens_ns[applied["prefill_tokens"]]
        times_ns += self._prefill_context_ns[applied["prefill_context_tokens"]]
        return times_ns + self._prefill_kv_ns[applied["prefill_kv_tokens"]]

    def _decode_time(self, n: int, tokens_ns: float, num_sequences: int, floor_ns: float) -> DecodeTime:
        roots = tuple(
            Root(
                (kind.item_ns * n) ** 2,
                kind.token_ns,
                kind.token_ns * n + kind.query_ns * n,
                float(n * (kind.window - 1)) if kind.window else NOT_WINDOWED,
            )
            for kind in self._decode_kinds
        )
        flat_ns = self._decode_fixed_ns + tokens_ns + self._sequences_ns[num_sequences]
        if self._splits_phases:
            flat_ns += self._phases_ns(StepShape(n, 0))
        return DecodeTime(flat_ns, floor_ns, self._host_ns[num_sequences], roots)

    def decode_run_ns(self, shape: StepShape, max_steps: int, limit_ns: int) -> Sequence[int]:
        """Return a run of steps, equal to single ones."""
        if self._in_parts:
            return super().decode_run_ns(shape, max_steps, limit_ns)
        n = shape.num_decodes
        return self._decodes[n].run_ns(shape.decode_kv_tokens, n, max_steps, limit_ns)

    def breakdown_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the step's time by operator, collective and host, in nanoseconds, before rounding."""
        applied = counts(shape, self.ranks)
        parts: dict[str, float] = {}
        for op in self.operators:
            if isinstance(op, AttentionKernel) or op.name in ROUTED:
                continue
            name = op.kind if isinstance(op, Collective) and op.kind == "all_reduce" else op.name
            rows = self._rows(op.applies_to, applied)
            parts[name] = parts.get(name, 0.0) + float(self._operator_ns(op, np.array([rows]))[0])
        if self._experts:
            tokens = self._sent_tokens([shape.num_tokens] * self.ranks.data)
            parts |= self._experts.parts_ns(tokens, shape.draw)
        parts |= self._attention_parts_ns(shape)
        parts["sampler"] = float(self._sampler_ns(np.array([float(shape.num_sequences)]))[0])
        parts["launches"] = max(0.0, self._floor_ns - sum(parts.values()))
        parts["host"] = self._host_ns[shape.num_sequences]
        return parts

    def _rows(self, items: Items, applied: Mapping[Items, int]) -> float:
        """Return to how many rows an operator is applied, graphs' padding included."""
        if items == "tokens":
            return float(self._padded(np.array([float(applied[items])]))[0])
        if items == "chunk_tokens":
            return float(np.ceil(self._rows("tokens", applied) / self.ranks.tensor))
        return float(applied[items])

    def _attention_parts_ns(self, shape: StepShape) -> dict[str, float]:
        n = shape.num_decodes
        share = self._mixed_share if shape.prefills else 1.0
        part = part_of_rank(shape, self.ranks.prefill_context)
        return {
            "attention_launch": self._prefill_fixed_ns if shape.prefills else self._decode_fixed_ns,
            "attention_decode": self._decodes[n].added_to(0.0, shape.decode_kv_tokens, share) if n else 0.0,
            "attention_prefill": sum(self._chunk_ns(new, context) for new, context in part.prefills),
        }

    def work(self, shape: StepShape) -> Mapping[str, Work]:
        """Return what one rank computes and moves in the step, by operator; of the experts, the slowest rank."""
        works = work_of_step(self.operators, shape, self.ranks)
        if self._experts:
            works |= self._experts.work(shape.num_tokens * self.ranks.data, shape.draw)
        return works

    def bounds_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the step's time by what limits it, in nanoseconds, the greatest first; the sum is the step's time.

        Keys: ``compute``, ``weights' bandwidth``, ``KV bandwidth``, ``activations' bandwidth``, ``kernel launches``,
        ``network``, ``host``. A kernel's time beyond its fixed cost counts to the one that limits it most.
        """
        return bounds_ns(self, shape)

    def bound_by(self, shape: StepShape) -> str:
        """Return what limits most of the step, as a noun for a sentence ("KV bandwidth")."""
        return next(iter(self.bounds_ns(shape)))

    def _padded(self, rows: Numbers) -> Numbers:
        """Return the tokens of the CUDA graphs that run steps of so many; as many where none is large enough."""
        return rows if self.enforce_eager else padded(rows)

    def _of(self, items: Items, rows: Numbers) -> Numbers:
        """Return the time of all operators that are applied to ``items``, for each number of rows."""
        total = np.zeros_like(rows)
        for op in self.operators:
            if not isinstance(op, AttentionKernel) and op.applies_to == items:
                total += self._operator_ns(op, rows)
        return total

    def _operator_ns(self, op: Gemm | GroupedGemm | Elementwise | Collective, rows: Numbers) -> Numbers:
        if isinstance(op, Gemm):
            return op.count * self._kernels.gemm_ns(op, rows)
        if isinstance(op, GroupedGemm):
            return op.count * self._kernels.grouped_ns(op, rows)
        if isinstance(op, Elementwise):
            return op.count * self._kernels.elementwise_ns(op, rows)
        return op.count * self._exchange.operator_ns(op, rows)

    def _sampler_ns(self, sequences: Numbers) -> Numbers:
        if not self.ranks.is_last_stage or self.ranks.part == "ffn":
            return np.zeros_like(sequences)
        logits = sequences * float(self.architecture.vocab_size)
        bandwidth = self.device.memory_bandwidth_bytes_per_s * self.efficiency.matrix_bandwidth
        byte_ns = SAMPLER_BYTES_PER_LOGIT / bandwidth * NS_PER_S
        return logits * (byte_ns + self.host.per_1000_logits_us * NS_PER_US / 1000)


def _ranks(ranks: Parallelism | None, tensor: int, data: int) -> Parallelism:
    """Return all about parallelism, of which the two sizes are a part."""
    if ranks is None:
        return Parallelism(tensor, data=data)
    if tensor not in (1, ranks.tensor) or data not in (1, ranks.data):
        raise InputError(
            f"tensor_parallel_size {tensor} and data_parallel_size {data} are not those of the ranks given: "
            f"{ranks.tensor} and {ranks.data}"
        )
    return ranks


def _efficiency(device: Device, given: Efficiency | Mapping[str, float] | None) -> Efficiency:
    if isinstance(given, Efficiency):
        return given
    return family_efficiency(device.family).changed(given or {})


def _check_formats(device: Device, architecture: ModelArchitecture, ops: Sequence[RankOperator]) -> None:
    """Raise an InputError if the device does not compute in a format that the model's products need."""
    device.peak(architecture.dtype)
    for op in ops:
        if isinstance(op, Gemm | GroupedGemm) and op.weights.activations is not None:
            try:
                device.peak(op.weights.activations)
            except InputError as error:
                raise InputError(
                    f"{error}. {architecture.name} computes its {op.weights.name} products in "
                    f"{op.weights.activations}; take it in {architecture.dtype}, or with weight-only quantisation"
                ) from None
