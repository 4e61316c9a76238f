"""How long attention takes in memory that computes, in closed form; ``docs/pim.md`` derives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servetwin.core.errors import InputError
from servetwin.core.units import NS_PER_S
from servetwin.hardware.pim import PimDevice
from servetwin.llm.operators import AttentionKernel, RankOperator
from servetwin.step.pim.base import Decodes, Floats
from servetwin.step.work_columns import StepColumns


@dataclass(frozen=True, slots=True)
class HeadGroup:
    """One request's query heads that share one head of keys and values, on one channel: ``fixed + per_token * tokens``.

    Attributes
    ----------
    fixed_ns
        Commands, and queries and outputs over the channel's pins.
    token_ns
        Per token of context: stream its key and value from the banks or multiply them with all query heads, whichever
        is slower; open its share of rows; scores out and weights in over the pins.
    floor_ns
        Of it, what streaming alone takes: the internal bandwidth.
    tile_tokens
        Tokens that fill all parallel banks once; the last tile of a context is half empty on average.
    """

    fixed_ns: float
    token_ns: float
    floor_ns: float
    tile_tokens: float

    def time_ns(self, tokens: float) -> float:
        """Return the time for ``tokens`` tokens of context."""
        return self.fixed_ns + self.token_ns * (tokens + (self.tile_tokens - 1) / 2)


def streamed_bytes(kernel: AttentionKernel) -> float:
    """Return what both products stream of one token and KV head; MLA's latent is key and value, so it comes twice."""
    per_head = kernel.kv_bytes_per_token / kernel.num_kv_heads
    if kernel.kind == "mla":
        return per_head * (kernel.head_dim + kernel.v_head_dim) / kernel.head_dim
    return per_head


def head_group(device: PimDevice, kernel: AttentionKernel) -> HeadGroup:
    """Return the closed form of one head group of a kind of layer."""
    queries = kernel.num_heads // kernel.num_kv_heads
    moved = streamed_bytes(kernel)
    pins_ns = NS_PER_S / device.external_bytes_per_s
    flops = 2.0 * queries * (kernel.head_dim + kernel.v_head_dim)
    stream_ns = moved / device.channel_bytes_per_s * NS_PER_S
    row_ns = device.row_switch_ns
    if device.near_memory:  # hidden behind the row that another bank delivers
        row_ns = max(0.0, row_ns - device.row_bytes / device.access_bytes * device.access_ns)
    rows_ns = moved / (device.parallel_banks * device.row_bytes) * row_ns
    scores = 0 if device.near_memory else 2 * queries * kernel.activation_bytes
    tile = device.parallel_banks * device.access_bytes / (moved / 2)
    return HeadGroup(
        fixed_ns=device.command_ns
        + queries * (kernel.head_dim + kernel.v_head_dim) * kernel.activation_bytes * pins_ns,
        token_ns=max(stream_ns, flops / device.flops_per_channel * NS_PER_S) + rows_ns + scores * pins_ns,
        floor_ns=stream_ns,
        tile_tokens=max(1.0, tile),
    )


class ClosedFormAttention:
    """Attention of decodes from a device's documented figures; KV grows with every token.

    A head group (a request and one KV head) stands on one channel, its tokens over all banks. With fewer groups than
    channels a group's tokens are divided over as many channels as it can have.

    Parameters
    ----------
    device, count
        The memory, and how many of it one replica has.
    ops
        Operators of one rank.
    tensor_parallel_size
        Ranks among which the devices are divided evenly.

    Raises
    ------
    InputError
        If there is less than one channel per rank, or the model has no attention that decodes.
    """

    needs = frozenset({"kv_extremes"})

    def __init__(
        self, device: PimDevice, count: int, ops: Sequence[RankOperator], tensor_parallel_size: int = 1
    ) -> None:
        self.device = device
        self.count = count
        self.capacity_bytes: int | None = device.capacity_bytes * count
        self._channels = device.channels * count // tensor_parallel_size
        self._ranks = tensor_parallel_size
        if self._channels < 1:
            raise InputError(
                f"{count} x {device.name} have {device.channels * count} channels for {tensor_parallel_size} ranks; "
                "give a greater count"
            )
        kernels = [op for op in ops if isinstance(op, AttentionKernel) and op.phase != "prefill"]
        if not kernels:
            raise InputError("the model has no attention that could be computed in memory")
        self._kinds = [(kernel, head_group(device, kernel)) for kernel in kernels]
        self._link_byte_ns = NS_PER_S * tensor_parallel_size / (device.link_bytes_per_s * count)

    @property
    def internal_bytes_per_s(self) -> float:
        """Of one rank's channels together; `step_ns` never moves KV faster."""
        return self._channels * self.device.channel_bytes_per_s

    def kv_bytes(self, decodes: Decodes) -> float:
        """Return the bytes of keys and values that one rank's banks deliver in a step."""
        return sum(
            kernel.count * kernel.num_kv_heads * streamed_bytes(kernel) * _seen(kernel, decodes)
            for kernel, _ in self._kinds
        )

    def step_ns(self, decodes: Decodes) -> float:
        """See `PimAttention`."""
        if not decodes.num:
            return 0.0
        return sum(kernel.count * self._layer_ns(kernel, group, decodes) for kernel, group in self._kinds)

    def _layer_ns(self, kernel: AttentionKernel, group: HeadGroup, decodes: Decodes) -> float:
        groups = decodes.num * kernel.num_kv_heads
        parts = max(1, self._channels // groups)
        rounds = -(-groups * parts // self._channels)
        time_ns = rounds * group.time_ns(_seen(kernel, decodes) / decodes.num / parts)
        longest = decodes.kv_max + 1
        if kernel.window:
            longest = min(longest, kernel.window)
        return max(time_ns, group.time_ns(longest / parts)) + self._crossing_ns(kernel, decodes.num)

    def _crossing_ns(self, kernel: AttentionKernel, num: int) -> float:
        """Return the time of queries and new keys and values to the memory, and of outputs back."""
        there = num * (kernel.num_heads * kernel.head_dim * kernel.activation_bytes + kernel.kv_bytes_per_token)
        back = num * kernel.num_heads * kernel.v_head_dim * kernel.activation_bytes
        return 2 * self.device.link_latency_ns + (there + back) * self._link_byte_ns

    def prompts_ns(self, prefills: Sequence[tuple[int, int]]) -> float:
        """See `PimAttention`."""
        total = 0.0
        for kernel, _ in self._kinds:
            window = (kernel.window or 2**62) - 1
            tokens = sum(new + min(context, window) for new, context in prefills)
            total += kernel.count * tokens * kernel.kv_bytes_per_token * self._link_byte_ns
        return total

    @property
    def idle_w(self) -> float | None:
        """See `PimAttention`."""
        return None if self.device.idle_w is None else self.device.idle_w * self.count

    def steps_j(self, steps: StepColumns) -> Floats:
        """See `PimAttention`; scores and weights pass the pins too where banks compute."""
        device, total = self.device, np.zeros(len(steps.num_decodes))
        for kernel, _ in self._kinds:
            seen = _all_seen(kernel, steps)
            scores = 0 if device.near_memory else 2 * kernel.num_heads * kernel.activation_bytes
            total += kernel.count * (
                kernel.num_kv_heads * streamed_bytes(kernel) * seen * device.access_j_per_byte
                + kernel.flops_per_pair * seen * device.operation_j
                + (_crossing_bytes(kernel, steps) + scores * seen) * device.external_j_per_byte
            )
        return np.asarray(total * self._ranks)

    def link_bytes(self, steps: StepColumns) -> Floats:
        """See `PimAttention`."""
        total = np.zeros(len(steps.num_decodes))
        for kernel, _ in self._kinds:
            total += kernel.count * _crossing_bytes(kernel, steps)
        return np.asarray(total * self._ranks)


def _crossing_bytes(kernel: AttentionKernel, steps: StepColumns) -> Floats:
    """Return one layer's queries, outputs and new KV of decodes; KV of prompts written, and read of their contexts."""
    context = steps.prefill_context
    if kernel.window:
        context = np.minimum(context, steps.num_prefills * (kernel.window - 1))
    decodes = steps.num_decodes * (kernel.bytes_per_query + kernel.kv_bytes_per_token)
    return np.asarray(decodes + (steps.prefill_tokens + context) * kernel.kv_bytes_per_token)


def _all_seen(kernel: AttentionKernel, steps: StepColumns) -> Floats:
    seen = steps.decode_kv_tokens + steps.num_decodes
    return np.minimum(seen, steps.num_decodes * kernel.window) if kernel.window else seen


def _seen(kernel: AttentionKernel, decodes: Decodes) -> int:
    """Return the tokens that all decodes attend to together, their new ones included."""
    seen = decodes.kv_tokens + decodes.num
    return min(seen, decodes.num * kernel.window) if kernel.window else seen
