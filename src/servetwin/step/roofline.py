"""The roofline: step times from a model's config and a device's data sheet, without any measured profile.

Each kernel takes a fixed cost and a mix of computing and moving data that is never below either, at efficiencies fitted
per family of devices (`servetwin.step.efficiency`). Collectives, the sampler and the host come on top. Kernels run one
after another, so their times add up; where the host launches them one by one, the step takes at least as long as that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from servetwin.core.errors import InputError
from servetwin.core.number_formats import number_format
from servetwin.core.units import NS_PER_S, NS_PER_US
from servetwin.hardware.base import Device
from servetwin.llm.base import ModelArchitecture
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
from servetwin.step.decode_time import DecodeTime, Root
from servetwin.step.efficiency import Efficiency, family_efficiency
from servetwin.step.host import HOSTS, HostOverhead
from servetwin.step.kernels import Kernels, Numbers
from servetwin.step.operators import Work, counts, work_of_step

DEFAULT_HOST_OVERHEAD = HOSTS["vllm-0.19"]
"""What vLLM V1 adds where its host work is not hidden: scheduling, input preparation, sampling, output handling."""

CAPTURED_SIZES = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""Numbers of tokens for which vLLM records CUDA graphs; a step is padded to the next of them."""

PADDED = np.array(CAPTURED_SIZES)[np.searchsorted(CAPTURED_SIZES, np.arange(CAPTURED_SIZES[-1] + 1))]
"""The recorded size for each number of tokens."""

SAMPLER_BYTES_PER_LOGIT = 10
"""The sampler reads each logit in 16 bits, writes it in fp32, and reads that once to find the token."""

NOT_WINDOWED = float("inf")


class RowTimes(dict[int, float]):
    """Times by a number of rows, computed for a block of numbers at once when one of them is asked for."""

    BLOCK = 64

    def __init__(self, function: Callable[[Numbers], Numbers]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, rows: int) -> float:
        first = rows // self.BLOCK * self.BLOCK
        block = range(first, first + self.BLOCK)
        self.update(zip(block, self._function(np.array(block, dtype=np.float64)).tolist(), strict=True))
        return self[rows]


class _FirstChunks(dict[int, float]):
    """Attention of chunks without context (most prompts are one), by their tokens."""

    def __init__(self, function: Callable[[int, int], float]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, new: int) -> float:
        time_ns = self[new] = self._function(new, 0)
        return time_ns


class _DecodeTimes(dict[int, DecodeTime]):
    """What decode steps take, by the number of decodes, worked out once each."""

    def __init__(self, function: Callable[[int], DecodeTime]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, n: int) -> DecodeTime:
        time = self[n] = self._function(n)
        return time


@step_models.register("roofline")
class RooflineStepModel(StepModelBase):
    """Step times of a model on equal devices, split by tensor parallelism.

    Parameters
    ----------
    architecture, device
        The model and the accelerator.
    tensor_parallel_size
        Ranks; more than one needs ``collectives``.
    collectives
        What an all-reduce among the ranks takes.
    dtype, kv_cache_dtype
        Number formats of plain weights and activations, and of the KV cache (None: as published).
    host
        What the host adds to a step.
    efficiency
        The coefficients; a mapping changes some of those of the device's family (None: all as they are).
    enforce_eager
        Whether the host launches every kernel (vLLM's ``enforce_eager``): no CUDA graphs, no padding.

    Raises
    ------
    InputError
        If the ranks do not divide the model, or the device has no peak for a format.
    """

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
    ) -> None:
        super().__init__()
        architecture.check_tensor_parallel_size(tensor_parallel_size)
        if tensor_parallel_size > 1 and collectives is None:
            raise InputError(f"tensor_parallel_size {tensor_parallel_size} needs a link between the ranks")
        if dtype is not None:
            architecture = replace(architecture, dtype=number_format(dtype))
        self.architecture = architecture
        self.device = device
        self.tensor_parallel_size = tensor_parallel_size
        self.host = host
        self.efficiency = _efficiency(device, efficiency)
        self.enforce_eager = enforce_eager
        self._collectives = collectives
        self._kernels = Kernels(device, self.efficiency, architecture.dtype)
        ranks = Parallelism(tensor=tensor_parallel_size)
        self._operators = operators(architecture, ranks, kv_cache_dtype=kv_cache_dtype)
        _check_formats(device, architecture, self._operators)
        attention = [op for op in self._operators if isinstance(op, AttentionKernel)]
        self._decode_kinds = [self._kernels.decode_attention(op) for op in attention if op.phase != "prefill"]
        self._prefill_kinds = [self._kernels.prefill_attention(op) for op in attention if op.phase != "decode"]
        self._set_times()

    def _set_times(self) -> None:
        layers = self.architecture.num_hidden_layers
        efficiency = self.efficiency
        decode_us = efficiency.decode_us
        self._mixed_share = efficiency.mixed_bandwidth
        self._host_ns = RowTimes(
            lambda rows: self.host.per_step_us * NS_PER_US + self.host.per_request_us * NS_PER_US * rows
        )
        self._decode_fixed_ns = layers * (efficiency.layer_us + decode_us) * NS_PER_US
        self._prefill_fixed_ns = layers * (efficiency.layer_us + max(efficiency.prefill_us, decode_us)) * NS_PER_US
        self._tokens_ns = RowTimes(lambda rows: self._of("tokens", self._padded(rows)))
        self._sequences_ns = RowTimes(lambda n: self._of("sequences", n) + self._sampler_ns(n))
        self._first_chunk_ns = _FirstChunks(self._chunk_ns)
        self._decode_tokens_ns = self._row_times("decode_tokens")
        self._prefill_tokens_ns = self._row_times("prefill_tokens")
        self._prefill_kv_ns = self._row_times("prefill_kv_tokens")
        items = {op.applies_to for op in self._operators if not isinstance(op, AttentionKernel)}
        self._splits_phases = bool(items - {"tokens", "sequences"})
        self._decodes = _DecodeTimes(self._decode_time)
        launches = sum(op.count for op in self._operators) if self.enforce_eager else 0
        self._floor_ns = launches * self.device.launch.eager_us * NS_PER_US

    def _row_times(self, items: Items) -> RowTimes:
        return RowTimes(lambda rows: self._of(items, rows))

    def duration_ns(self, shape: StepShape) -> int:
        """Return the step's time; O(1) for decodes, O(chunks) with prefills."""
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
            for root in self._decodes[n].roots:
                total += root.of(shape.decode_kv_tokens, self._mixed_share)
        if total < self._floor_ns:
            total = self._floor_ns
        return round(total + self._host_ns[sequences]) or 1

    def _chunk_ns(self, new: int, context: int) -> float:
        return sum([kind.chunk_ns(new, context) for kind in self._prefill_kinds])

    def _phases_ns(self, shape: StepShape) -> float:
        """Return the time of operators that only decodes or only prompts run (MLA)."""
        applied = counts(shape)
        times_ns = self._decode_tokens_ns[applied["decode_tokens"]] + self._prefill_tokens_ns[applied["prefill_tokens"]]
        return times_ns + self._prefill_kv_ns[applied["prefill_kv_tokens"]]

    def _decode_time(self, n: int) -> DecodeTime:
        roots = tuple(
            Root(
                (kind.item_ns * n) ** 2,
                kind.token_ns,
                kind.token_ns * n + kind.query_ns * n,
                float(n * (kind.window - 1)) if kind.window else NOT_WINDOWED,
            )
            for kind in self._decode_kinds
        )
        flat_ns = self._decode_fixed_ns + self._tokens_ns[n] + self._sequences_ns[n]
        if self._splits_phases:
            flat_ns += self._phases_ns(StepShape(n, 0))
        return DecodeTime(flat_ns, self._floor_ns, self.host.of_requests_ns(n), roots)

    def decode_run_ns(self, shape: StepShape, max_steps: int, limit_ns: int) -> Sequence[int]:
        """Return a run of steps, equal to single ones."""
        n = shape.num_decodes
        return self._decodes[n].run_ns(shape.decode_kv_tokens, n, max_steps, limit_ns)

    def breakdown_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the step's time by operator, collective and host, in nanoseconds, before rounding."""
        applied = counts(shape)
        parts: dict[str, float] = {}
        for op in self._operators:
            if isinstance(op, AttentionKernel):
                continue
            name = op.kind if isinstance(op, Collective) and op.kind == "all_reduce" else op.name
            rows = np.array([float(applied[op.applies_to])])
            padded = self._padded(rows) if op.applies_to == "tokens" else rows
            parts[name] = parts.get(name, 0.0) + float(self._operator_ns(op, padded)[0])
        n = shape.num_decodes
        parts["attention_launch"] = self._prefill_fixed_ns if shape.prefills else self._decode_fixed_ns
        roots = self._decodes[n].roots if n else ()
        share = self.efficiency.mixed_bandwidth if shape.prefills else 1.0
        parts["attention_decode"] = sum(root.of(shape.decode_kv_tokens, share) for root in roots)
        parts["attention_prefill"] = sum(
            kind.chunk_ns(new, context) for new, context in shape.prefills for kind in self._prefill_kinds
        )
        parts["sampler"] = float(self._sampler_ns(np.array([float(shape.num_sequences)]))[0])
        parts["launches"] = max(0.0, self._floor_ns - sum(parts.values()))
        parts["host"] = self.host.of_step_ns(shape)
        return parts

    def work(self, shape: StepShape) -> Mapping[str, Work]:
        """Return what one rank computes and moves in the step, by operator."""
        return work_of_step(self._operators, shape)

    def bounds_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the step's time by what limits it, in nanoseconds, the greatest first; the sum is the step's time.

        Keys: ``compute``, ``weights' bandwidth``, ``KV bandwidth``, ``activations' bandwidth``, ``kernel launches``,
        ``network``, ``host``. A kernel's time beyond its fixed cost counts to the one that limits it most.
        """
        bounds = dict.fromkeys(_BOUNDS, 0.0)
        parts = dict(self.breakdown_ns(shape))
        bounds["host"] = parts.pop("host")
        bounds["network"] = parts.pop("all_reduce", 0.0) + parts.pop("logits_gather", 0.0)
        bounds["activations' bandwidth"] = parts.pop("sampler")
        bounds["kernel launches"] = parts.pop("attention_launch") + parts.pop("launches")
        works = self.work(shape)
        for name in ("attention_decode", "attention_prefill"):
            bounds["compute" if self._computes(works[name]) else "KV bandwidth"] += parts.pop(name)
        for op in self._operators:
            if isinstance(op, AttentionKernel | Collective) or op.name not in parts:
                continue
            time_ns, work = parts.pop(op.name), works[op.name]
            launches_ns = min(time_ns, self._fixed_ns(op.name)) if work.num_bytes else 0.0
            bounds["kernel launches"] += launches_ns
            weights = sum(other.count * _weights(other, shape) for other in self._operators if other.name == op.name)
            reading = "weights' bandwidth" if weights > work.num_bytes / 2 else "activations' bandwidth"
            bounds["compute" if self._computes(work) else reading] += time_ns - launches_ns
        return dict(sorted(bounds.items(), key=lambda item: -item[1]))

    def bound_by(self, shape: StepShape) -> str:
        """Return what limits most of the step, as a noun for a sentence ("KV bandwidth")."""
        return next(iter(self.bounds_ns(shape)))

    def _computes(self, work: Work) -> bool:
        return work.flops / self.device.peak(self.architecture.dtype) > (
            work.num_bytes / self.device.memory_bandwidth_bytes_per_s
        )

    def _fixed_ns(self, name: str) -> float:
        """Return the fixed cost of all runs of an operator."""
        total_us = 0.0
        for op in self._operators:
            if op.name == name:
                total_us += op.count * self._fixed_us(op)
        return total_us * NS_PER_US

    def _fixed_us(self, op: object) -> float:
        if isinstance(op, GroupedGemm):
            return self.efficiency.experts_us
        if isinstance(op, Gemm):
            return self.efficiency.matrix_us if op.weights.is_plain else self.efficiency.quantized_us
        return self.efficiency.element_us

    def _padded(self, rows: Numbers) -> Numbers:
        """Return the tokens of the CUDA graphs that run steps of so many; as many where none is large enough."""
        if self.enforce_eager:
            return rows
        return np.where(rows <= CAPTURED_SIZES[-1], PADDED[np.minimum(rows, CAPTURED_SIZES[-1]).astype(int)], rows)

    def _of(self, items: Items, rows: Numbers) -> Numbers:
        """Return the time of all operators that are applied to ``items``, for each number of rows."""
        total = np.zeros_like(rows)
        for op in self._operators:
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
        return op.count * self._collective_ns(op, rows)

    def _collective_ns(self, op: Collective, rows: Numbers) -> Numbers:
        """Return an all-reduce, or an all-gather: half of one, being the second half of a ring's all-reduce."""
        if self._collectives is None:
            return np.zeros_like(rows)
        share = 1.0 if op.kind == "all_reduce" else 0.5
        sizes = rows * (op.elements * op.activation_bytes / self.efficiency.collective_bandwidth)
        times = [share * self._collectives.all_reduce_ns(size, self.tensor_parallel_size) for size in sizes.tolist()]
        return np.where(rows > 0, np.array(times), 0.0)

    def _sampler_ns(self, sequences: Numbers) -> Numbers:
        logits = sequences * float(self.architecture.vocab_size)
        bandwidth = self.device.memory_bandwidth_bytes_per_s * self.efficiency.matrix_bandwidth
        byte_ns = SAMPLER_BYTES_PER_LOGIT / bandwidth * NS_PER_S
        return logits * (byte_ns + self.host.per_1000_logits_us * NS_PER_US / 1000)


_BOUNDS = (
    "compute",
    "weights' bandwidth",
    "KV bandwidth",
    "activations' bandwidth",
    "kernel launches",
    "network",
    "host",
)


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


def _weights(op: object, shape: StepShape) -> float:
    """Return the bytes of weights that one run of an operator reads in a step."""
    if isinstance(op, GroupedGemm):
        return op.active_experts(shape.num_tokens) * op.expert_bytes
    return op.weight_bytes if isinstance(op, Gemm | Elementwise) else 0.0
