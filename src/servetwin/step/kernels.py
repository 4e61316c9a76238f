"""What kernels take on a device: closed forms over their shape, in nanoseconds, for numbers and arrays alike.

Each is a fixed cost and a mix of what the multiprocessors and the memory need, at the efficiencies of the device's
family. The mix ``(compute**p + memory**p)**(1/p)`` is never less than either part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from servetwin.core.units import NS_PER_S, NS_PER_US
from servetwin.hardware.base import Device
from servetwin.llm.operators import AttentionKernel, Elementwise, Gemm, GroupedGemm
from servetwin.step.efficiency import Efficiency

Numbers = NDArray[np.float64]

TILES = ((16, 64), (64, 64), (64, 128), (128, 128), (128, 256))
"""Rows and columns of the output that one multiprocessor computes at a time; libraries choose what fits best."""

QUERY_TILE = 128
"""Rows of queries (those that share a KV head together) that a multiprocessor works on in attention over a prompt."""

OVERLAP = 3.0
"""Exponent of the mix in matrix products: how well they hide the lesser of computing and reading behind the other."""

TYPICAL_MULTIPROCESSORS = 100
"""For attention on devices whose data sheet has no such number."""


def mix(compute: Numbers, memory: Numbers) -> Numbers:
    """Return the time of a product whose parts take that long alone: more than either, at most 1.26 times."""
    longer, shorter = np.maximum(compute, memory), np.minimum(compute, memory)
    ratio = np.divide(shorter, longer, out=np.zeros_like(longer), where=longer > 0)
    result: Numbers = longer * (1.0 + ratio**OVERLAP) ** (1 / OVERLAP)
    return result


def tiled_flops(
    rows: Numbers, n: Numbers | int, k: Numbers | int, batch: Numbers | float, multiprocessors: int | None
) -> Numbers:
    """Return the operations for which a product keeps the device busy: whole tiles, in whole waves.

    Parameters
    ----------
    rows, n, k, batch
        Of the product; ``batch`` of them run in one kernel.
    multiprocessors
        Among which the tiles are divided; None: the device does not work in tiles.
    """
    if multiprocessors is None:
        return np.asarray(2.0 * batch * rows * n * k)
    areas = []
    for height, width in TILES:
        waves = np.ceil(batch * np.ceil(rows / height) * -(-n // width) / multiprocessors)
        areas.append(waves * (multiprocessors * height * width))
    result: Numbers = 2.0 * k * np.min(areas, axis=0)
    return result


class DecodeAttention(NamedTuple):
    """Decode attention of one kind of layer, all its layers together: ``fixed + sqrt(items**2 + data**2)``.

    ``items = item_ns * n`` for n sequences; ``data = token_ns * tokens + query_ns * n``, where at most ``window``
    tokens count for a sequence (0: all), its newest included.
    """

    item_ns: float
    token_ns: float
    query_ns: float
    window: int


class PrefillAttention(NamedTuple):
    """Attention over a prompt's chunk of one kind of layer, all its layers together, but for its fixed cost.

    ``tile_ns`` per tile of queries, of which ``heads_per_tile`` heads' rows share one, for each of ``kv_heads``;
    ``pair_ns`` per pair of a query and a token that it attends to; ``context_ns`` per token of context (its key and
    value are read, on one of the ranks that divide the context), ``new_ns`` per token computed (its query, too).
    """

    tile_ns: float
    kv_heads: int
    heads_per_tile: float
    pair_ns: float
    context_ns: float
    new_ns: float
    window: int

    def chunk_ns(self, new: int, context: int) -> float:
        """Return the time of one chunk of ``new`` tokens after ``context`` others."""
        tiles = self.kv_heads * -(-new * self.heads_per_tile // QUERY_TILE)
        seen = min(context, self.window - 1) if self.window else context
        pairs = causal_pairs(new, context, self.window)
        return self.tile_ns * tiles + self.pair_ns * pairs + self.context_ns * seen + self.new_ns * new


def causal_pairs(new: int, context: int, window: int) -> int:
    """Return the pairs of a new token and one that it attends to, itself included; ``window`` 0: all before it."""
    if not window or new + context <= window:
        return new * context + new * (new + 1) // 2
    growing = max(0, window - context)
    return growing * context + growing * (growing + 1) // 2 + (new - growing) * window


@dataclass(frozen=True)
class Kernels:
    """The kernels of a device that computes in ``dtype``, with the efficiencies of its family."""

    device: Device
    efficiency: Efficiency
    dtype: str

    def gemm_ns(self, op: Gemm, rows: Numbers) -> Numbers:
        """Return the time of one run of a product with ``rows`` rows, 0 for none."""
        plain = op.weights.is_plain
        coefficients = self.efficiency
        if plain:
            fixed, compute, bandwidth = (
                coefficients.matrix_us,
                coefficients.matrix_compute,
                coefficients.matrix_bandwidth,
            )
        else:
            fixed, compute, bandwidth = (
                coefficients.quantized_us,
                coefficients.quantized_compute,
                coefficients.quantized_bandwidth,
            )
        peak = self._peak(op.weights.activations) * compute
        compute_ns = tiled_flops(rows, op.n, op.k, op.batch, self.device.multiprocessors) / peak * NS_PER_S
        moved = np.asarray(op.bytes_read(rows) + op.bytes_written(rows))  # type: ignore[arg-type]
        memory_ns = self._bytes_ns(moved, bandwidth)
        times = fixed * NS_PER_US + mix(compute_ns, memory_ns)
        if op.weights.activations is not None:
            times = times + self._bytes_ns(rows * op.k * (op.activation_bytes + 1), bandwidth)
        return np.where(rows > 0, times, 0.0)

    def grouped_ns(self, op: GroupedGemm, tokens: Numbers) -> Numbers:
        """Return the time of one run of a product of the routed experts, each with its share of the rows."""
        active = op.local_experts * (1.0 - (1.0 - op.top_k / op.num_experts) ** tokens)
        return self.grouped_rows_ns(op, tokens * (op.top_k * op.local_experts / op.num_experts), active)

    def grouped_rows_ns(
        self, op: GroupedGemm, rows: Numbers, active: Numbers, cleared: Numbers | float = 0.0
    ) -> Numbers:
        """Return the time of one run in which ``active`` experts share ``rows`` rows and ``cleared`` become zeros."""
        each = np.divide(rows, active, out=np.zeros_like(rows), where=active > 0)
        coefficients = self.efficiency
        peak = self._peak(op.weights.activations) * coefficients.experts_compute
        compute_ns = tiled_flops(each, op.n, op.k, active, self.device.multiprocessors) / peak * NS_PER_S
        moved = active * op.expert_bytes + (rows * (op.n + op.k) + cleared * op.n) * op.activation_bytes
        times = (coefficients.experts_us + coefficients.expert_us * active) * NS_PER_US + mix(
            compute_ns, self._bytes_ns(moved, coefficients.experts_bandwidth)
        )
        return np.where(rows + cleared > 0, times, 0.0)

    def elementwise_ns(self, op: Elementwise, items: Numbers) -> Numbers:
        """Return the time of one run of an operator that only moves data, 0 for no items."""
        moved = np.asarray(op.bytes_read(items) + op.bytes_written(items))  # type: ignore[arg-type]
        times = self.efficiency.element_us * NS_PER_US + self._bytes_ns(moved, self.efficiency.matrix_bandwidth)
        return np.where(items > 0, times, 0.0)

    def decode_attention(self, op: AttentionKernel) -> DecodeAttention:
        """Return what attention costs when ``op.count`` layers decode."""
        narrow = op.kv_bytes_per_token < op.num_kv_heads * op.head_dim * op.activation_bytes * (
            1 if op.kind == "mla" else 2
        )
        share = self.efficiency.decode_fp8_bandwidth if narrow else self.efficiency.decode_bandwidth
        byte_ns = NS_PER_S / (self.device.memory_bandwidth_bytes_per_s * share)
        flop_ns = NS_PER_S / (self._peak(None) * self.efficiency.prefill_compute)
        item_us = self.efficiency.decode_item_us * op.num_kv_heads / self._multiprocessors
        return DecodeAttention(
            op.count * item_us * NS_PER_US,
            op.count * max(op.kv_bytes_per_token * byte_ns, op.flops_per_pair * flop_ns) / op.context_ranks,
            op.count * op.bytes_per_query * byte_ns,
            op.window or 0,
        )

    def prefill_attention(self, op: AttentionKernel) -> PrefillAttention:
        """Return what attention costs when ``op.count`` layers compute a chunk of a prompt."""
        byte_ns = NS_PER_S / (self.device.memory_bandwidth_bytes_per_s * self.efficiency.prefill_bandwidth)
        flop_ns = NS_PER_S / (self._peak(None) * self.efficiency.prefill_compute * self._head_share(op.head_dim))
        tile_ns = self.efficiency.prefill_tile_us * NS_PER_US / self._multiprocessors
        return PrefillAttention(
            op.count * tile_ns,
            op.num_kv_heads,
            op.num_heads / op.num_kv_heads,
            op.count * op.flops_per_pair * flop_ns,
            op.count * op.kv_bytes_per_token * byte_ns / op.context_ranks,
            op.count * (op.kv_bytes_per_token + op.bytes_per_query) * byte_ns,
            op.window or 0,
        )

    def _head_share(self, head_dim: int) -> float:
        """Return 1 for heads of 128 elements or more, less for narrower ones, in a straight line."""
        missing = max(0, 128 - head_dim) / 64
        return max(0.1, 1.0 - (1.0 - self.efficiency.prefill_narrow) * missing)

    @property
    def _multiprocessors(self) -> int:
        return self.device.multiprocessors or TYPICAL_MULTIPROCESSORS

    def _peak(self, dtype: str | None) -> float:
        return self.device.peak(dtype or self.dtype)

    def _bytes_ns(self, num_bytes: Numbers, share: float) -> Numbers:
        result: Numbers = num_bytes / (self.device.memory_bandwidth_bytes_per_s * share) * NS_PER_S
        return result
