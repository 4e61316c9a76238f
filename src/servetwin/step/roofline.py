"""The roofline: step times from a model's config and a device's data sheet, without any measured profile.

Each operator takes ``max(FLOPs / (peak x efficiency), bytes / (bandwidth x efficiency))`` and a fixed cost per kernel;
collectives and the host come on top. Operators run one after another, so their times add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.number_formats import bytes_per_element, number_format
from servetwin.core.units import NS_PER_S, NS_PER_US
from servetwin.hardware.base import Device
from servetwin.llm.base import ModelArchitecture
from servetwin.network.base import Collectives
from servetwin.step.affine_run import affine_run_ns, affine_step_ns
from servetwin.step.base import StepModelBase, StepShape, step_models
from servetwin.step.host import HostOverhead
from servetwin.step.operators import Operator, Work, attention_work, dense_operators

WEIGHT_FORMATS = ("fp32", "bf16", "fp16")

DEFAULT_HOST_OVERHEAD = HostOverhead(per_step_us=500.0, per_request_us=5.0)
"""What vLLM V1 adds where its host work is not hidden: scheduling, input preparation, sampling, output handling."""


@dataclass(frozen=True, slots=True)
class Efficiency:
    """How much of a data sheet's figures real kernels reach, and what a kernel costs however small it is.

    Defaults are what the profiles of Llama-3.1-8B on an RTX PRO 6000 show for middling sizes, rounded; they hold within
    some 10 to 20 % on other cards.

    Attributes
    ----------
    matrix_compute
        Share of the peak that large matrix products reach.
    attention_compute
        Share of the peak that attention over a prompt reaches.
    memory_bandwidth
        Share of the bandwidth that kernels reach.
    kernel_us
        Per kernel: launch (CUDA graph replay), ramp and tail.
    attention_kernel_us
        The same for each layer's attention, which also combines split results.
    """

    matrix_compute: float = 0.75
    attention_compute: float = 0.5
    memory_bandwidth: float = 0.92
    kernel_us: float = 2.5
    attention_kernel_us: float = 8.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            share = not item.name.endswith("_us")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not (0 < value <= 1 if share else 0 <= value < 1e6):
                allowed = "above 0 and at most 1" if share else "at least 0"
                raise InputError(f"efficiency {item.name} must be {allowed}, got {value!r}")


def _efficiency_of(changes: Mapping[str, float]) -> Efficiency:
    names = [item.name for item in fields(Efficiency)]
    for name in changes:
        if name not in names:
            raise unknown_name("efficiency", name, names)
    return Efficiency(**changes)


class _Memo(dict[int, float]):
    """Values of a function of a count, computed once each."""

    def __init__(self, function: Callable[[int], float]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, count: int) -> float:
        value = self[count] = self._function(count)
        return value


@step_models.register("roofline")
class RooflineStepModel(StepModelBase):
    """Step times of a dense model on equal devices, split by tensor parallelism.

    Parameters
    ----------
    architecture, device
        The model and the accelerator.
    tensor_parallel_size
        Ranks; more than one needs ``collectives``.
    collectives
        What an all-reduce among the ranks takes.
    dtype, kv_cache_dtype
        Number formats of weights and activations (None: as published) and of the KV cache (None: as ``dtype``).
    host
        What the host adds to a step.
    efficiency
        See `Efficiency`; a mapping changes some of its values.

    Raises
    ------
    InputError
        If the ranks do not divide the model, or the device has no peak for the format.
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
        efficiency: Efficiency | Mapping[str, float] = Efficiency(),
    ) -> None:
        super().__init__()
        architecture.check_tensor_parallel_size(tensor_parallel_size)
        if tensor_parallel_size > 1 and collectives is None:
            raise InputError(f"tensor_parallel_size {tensor_parallel_size} needs a link between the ranks")
        dtype = _weight_format(dtype or architecture.dtype)
        self.architecture = architecture
        self.device = device
        self.tensor_parallel_size = tensor_parallel_size
        self.host = host
        self.efficiency = efficiency if isinstance(efficiency, Efficiency) else _efficiency_of(efficiency)
        self._collectives = collectives
        self._activation_bytes = bytes_per_element(dtype)
        self._operators = dense_operators(architecture, tensor_parallel_size, dtype)
        self._attention = attention_work(architecture, tensor_parallel_size, dtype, kv_cache_dtype or dtype)
        self._set_rates(device.peak(dtype), device.memory_bandwidth_bytes_per_s, self.efficiency)
        self._tokens_ns = _Memo(self._of_tokens_ns)
        self._sequences_ns = _Memo(self._of_sequences_ns)
        self._decodes_ns = _Memo(self._of_decodes_ns)

    def _set_rates(self, peak: float, bandwidth: float, efficiency: Efficiency) -> None:
        self._matrix_ns_per_flop = NS_PER_S / (peak * efficiency.matrix_compute)
        self._attention_ns_per_flop = NS_PER_S / (peak * efficiency.attention_compute)
        self._ns_per_byte = NS_PER_S / (bandwidth * efficiency.memory_bandwidth)
        self._kernel_ns = efficiency.kernel_us * NS_PER_US
        self._attention_launch_ns = self.architecture.num_hidden_layers * efficiency.attention_kernel_us * NS_PER_US
        attention = self._attention
        self._pair_ns = attention.flops_per_pair * self._attention_ns_per_flop
        self._kv_ns = attention.bytes_per_kv_token * self._ns_per_byte
        self._query_ns = attention.bytes_per_query_token * self._ns_per_byte
        self._decode_kv_ns = max(self._kv_ns, self._pair_ns)

    def duration_ns(self, shape: StepShape) -> int:
        """Return the step's time; O(1) for decodes, O(chunks) with prefills."""
        n = shape.num_decodes
        if not shape.prefills:
            return affine_step_ns(self._decodes_ns[n], self._decode_kv_ns, shape.decode_kv_tokens)
        tokens = n
        chunks_ns = 0.0
        for new, context in shape.prefills:
            tokens += new
            chunks_ns += self._chunk_ns(new, context)
        flat_ns = self._tokens_ns[tokens] + self._sequences_ns[n + len(shape.prefills)] + chunks_ns
        return round(flat_ns + self._decode_attention_ns(n, shape.decode_kv_tokens)) or 1

    def decode_run_ns(self, shape: StepShape, max_steps: int, limit_ns: int) -> Sequence[int]:
        """Return a run in closed form; equal to single steps."""
        n = shape.num_decodes
        return affine_run_ns(self._decodes_ns[n], self._decode_kv_ns, shape.decode_kv_tokens, n, max_steps, limit_ns)

    def breakdown_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the step's time by operator, collective and host, in nanoseconds, before rounding."""
        counts = {"tokens": shape.num_tokens, "sequences": shape.num_sequences}
        parts = {op.name: self._operator_ns(op, counts[op.applies_to]) for op in self._operators}
        parts["attention_launch"] = self._attention_launch_ns
        parts["attention_decode"] = self._decode_attention_ns(shape.num_decodes, shape.decode_kv_tokens)
        parts["attention_prefill"] = sum(self._chunk_ns(new, context) for new, context in shape.prefills)
        if self._collectives is not None and self.tensor_parallel_size > 1:
            parts["all_reduce"] = self._all_reduce_ns(shape.num_tokens)
            parts["logits_gather"] = self._logits_gather_ns(shape.num_sequences)
        parts["host"] = self.host.of_step_ns(shape)
        return parts

    def work(self, shape: StepShape) -> Mapping[str, Work]:
        """Return what one rank computes and moves in the step, by operator."""
        counts = {"tokens": shape.num_tokens, "sequences": shape.num_sequences}
        works: dict[str, Work] = {}
        for op in self._operators:
            one = op.work(counts[op.applies_to])
            works[op.name] = Work(one.flops * op.copies, one.num_bytes * op.copies)
        works["attention_decode"] = self._attention.decode(shape.num_decodes, shape.decode_kv_tokens)
        chunks = [self._attention.prefill(new, context) for new, context in shape.prefills]
        works["attention_prefill"] = Work(sum(c.flops for c in chunks), sum(c.num_bytes for c in chunks))
        return works

    def bounds_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the step's time by what limits it, in nanoseconds, the greatest first; the sum is the step's time.

        Keys: ``compute``, ``weights' bandwidth``, ``KV bandwidth``, ``activations' bandwidth``, ``kernel launches``,
        ``network``, ``host``.
        """
        bounds = dict.fromkeys(_BOUNDS, 0.0)
        parts = dict(self.breakdown_ns(shape))
        bounds["host"] = parts.pop("host")
        bounds["network"] = parts.pop("all_reduce", 0.0) + parts.pop("logits_gather", 0.0)
        bounds["kernel launches"] = parts.pop("attention_launch")
        for name in ("attention_decode", "attention_prefill"):
            work = self.work(shape)[name]
            computes = work.flops * self._attention_ns_per_flop > work.num_bytes * self._ns_per_byte
            bounds["compute" if computes else "KV bandwidth"] += parts.pop(name)
        counts = {"tokens": shape.num_tokens, "sequences": shape.num_sequences}
        for op in self._operators:
            launches_ns = op.copies * self._kernel_ns
            bounds["kernel launches"] += launches_ns
            bounds[self._operator_bound(op, counts[op.applies_to])] += parts[op.name] - launches_ns
        return dict(sorted(bounds.items(), key=lambda item: -item[1]))

    def bound_by(self, shape: StepShape) -> str:
        """Return what limits most of the step, as a noun for a sentence ("KV bandwidth")."""
        return next(iter(self.bounds_ns(shape)))

    def _operator_bound(self, op: Operator, count: int) -> str:
        work = op.work(count)
        if work.flops * self._matrix_ns_per_flop > work.num_bytes * self._ns_per_byte:
            return "compute"
        return "weights' bandwidth" if op.weight_bytes > op.num_bytes * count else "activations' bandwidth"

    def _operator_ns(self, op: Operator, count: int) -> float:
        flops, num_bytes = op.work(count)
        return op.copies * (max(flops * self._matrix_ns_per_flop, num_bytes * self._ns_per_byte) + self._kernel_ns)

    def _of_tokens_ns(self, tokens: int) -> float:
        operators_ns = sum(self._operator_ns(op, tokens) for op in self._operators if op.applies_to == "tokens")
        return operators_ns + self._attention_launch_ns + self._all_reduce_ns(tokens)

    def _of_sequences_ns(self, sequences: int) -> float:
        operators_ns = sum(self._operator_ns(op, sequences) for op in self._operators if op.applies_to == "sequences")
        return operators_ns + self._logits_gather_ns(sequences) + self.host.of_requests_ns(sequences)

    def _of_decodes_ns(self, n: int) -> float:
        return self._tokens_ns[n] + self._sequences_ns[n] + self._decode_attention_ns(n, 0)

    def _decode_attention_ns(self, n: int, kv_tokens: int) -> float:
        return self._decode_kv_ns * (kv_tokens + n) + self._query_ns * n

    def _chunk_ns(self, new: int, context: int) -> float:
        compute_ns = self._pair_ns * (new * (2 * context + new + 1) // 2)
        memory_ns = self._kv_ns * (new + context) + self._query_ns * new
        return compute_ns if compute_ns > memory_ns else memory_ns

    def _all_reduce_ns(self, tokens: int) -> float:
        """Two per layer (after attention, after the MLP) and one after the embedding, each of the hidden states."""
        if self._collectives is None:
            return 0.0
        num_bytes = tokens * self.architecture.hidden_size * self._activation_bytes
        count = 2 * self.architecture.num_hidden_layers + 1
        return count * self._collectives.all_reduce_ns(num_bytes, self.tensor_parallel_size)

    def _logits_gather_ns(self, sequences: int) -> float:
        """Half of an all-reduce of the logits: a ring's all-gather is the second half of its all-reduce."""
        if self._collectives is None:
            return 0.0
        num_bytes = sequences * self.architecture.vocab_size * self._activation_bytes
        return self._collectives.all_reduce_ns(num_bytes, self.tensor_parallel_size) / 2


_BOUNDS = (
    "compute",
    "weights' bandwidth",
    "KV bandwidth",
    "activations' bandwidth",
    "kernel launches",
    "network",
    "host",
)


def _weight_format(dtype: str) -> str:
    name = number_format(dtype)
    if name not in WEIGHT_FORMATS:
        raise InputError(
            f"the roofline has no quantised weights yet, got dtype {dtype!r}; allowed: {', '.join(WEIGHT_FORMATS)}"
        )
    return name
