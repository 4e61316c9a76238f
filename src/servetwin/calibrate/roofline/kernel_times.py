"""The roofline's times for the rows of measured operator tables, by the formulas of `servetwin.step.kernels`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.roofline.tables import Table
from servetwin.core.units import NS_PER_US
from servetwin.llm.formats import PLAIN_FORMATS, QUANTIZED_FORMATS, WeightFormat
from servetwin.llm.operators import AttentionKernel, Elementwise, Gemm, GroupedGemm
from servetwin.step.efficiency import Efficiency
from servetwin.step.kernels import Kernels

Times = Callable[[Efficiency], NDArray[np.float64]]
"""Predicted times in microseconds, one per row of a table."""


@dataclass(frozen=True)
class Kind:
    """One kind of kernel: its tables, and the coefficients that they tell of.

    Attributes
    ----------
    folder, table
        Where the tables lie.
    coefficients
        Names in `Efficiency`.
    keep
        Which rows are of this kind.
    times
        The roofline's times for these rows.
    """

    name: str
    folder: str
    table: str
    coefficients: tuple[str, ...]
    keep: Callable[[Table], NDArray[np.bool_]]
    times: Callable[[Table], Times]


def _kernels(table: Table, efficiency: Efficiency) -> Kernels:
    return Kernels(table.device, efficiency, "bf16")


def _by_shape(table: Table, *names: str) -> list[tuple[tuple[int, ...], NDArray[np.int64]]]:
    """Return the rows of each combination of these columns' values."""
    keys = np.stack([table.columns[name] for name in names], axis=1)
    shapes, inverse = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
    return [(tuple(int(x) for x in shape), rows) for shape, rows in zip(shapes, groups, strict=True)]


def _gemm_times(form: WeightFormat) -> Callable[[Table], Times]:
    def of_table(table: Table) -> Times:
        groups = [
            (Gemm("gemm", 1, "tokens", n, k, form), rows, table.columns["m"][rows])
            for (n, k), rows in _by_shape(table, "n", "k")
        ]

        def times(efficiency: Efficiency) -> NDArray[np.float64]:
            kernels = _kernels(table, efficiency)
            found = np.empty(len(table))
            for op, rows, m in groups:
                found[rows] = kernels.gemm_ns(op, m) / NS_PER_US
            return found

        return times

    return of_table


def _experts_times(table: Table) -> Times:
    """Return the times of both products with the activation between them and the sum behind, as the tables do."""
    size = "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"
    plain = PLAIN_FORMATS["bf16"]
    groups = []
    for (hidden, inter, top_k, experts, tensor, expert), rows in _by_shape(table, *size):
        local, width = -(-experts // expert), inter // tensor
        share = -(-top_k * local // experts)
        products = [
            GroupedGemm("up", 1, experts, local, top_k, 2 * width, hidden, plain),
            GroupedGemm("down", 1, experts, local, top_k, hidden, width, plain),
        ]
        moves = [
            Elementwise("act", 1, "tokens", share * 2 * width, share * width),
            Elementwise("sum", 1, "tokens", share * hidden, hidden),
        ]
        groups.append((products, moves, rows, table.columns["num_tokens"][rows]))

    def times(efficiency: Efficiency) -> NDArray[np.float64]:
        kernels = _kernels(table, efficiency)
        found = np.empty(len(table))
        for products, moves, rows, tokens in groups:
            total = sum(kernels.grouped_ns(op, tokens) for op in products)
            found[rows] = (total + sum(kernels.elementwise_ns(op, tokens) for op in moves)) / NS_PER_US
        return found

    return times


def _attention_groups(table: Table) -> list[tuple[AttentionKernel, NDArray[np.int64]]]:
    kv_size = np.where(table.labels["kv_cache_dtype"] == "fp8", 1, 2)
    with_size = Table(table.device, {**table.columns, "kv_size": kv_size.astype(float)}, {}, table.measured_us)
    groups = []
    for (heads, kv_heads, head_dim, size), rows in _by_shape(
        with_size, "num_heads", "num_key_value_heads", "head_dim", "kv_size"
    ):
        cache = 2 * kv_heads * head_dim * size
        kernel = AttentionKernel(
            "attention", 1, "gqa", "both", heads, kv_heads, head_dim, head_dim, None, "sliding", cache
        )
        groups.append((kernel, rows))
    return groups


def _decode_times(table: Table) -> Times:
    groups = _attention_groups(table)
    batch, context = table.columns["batch_size"], table.columns["step"]

    def times(efficiency: Efficiency) -> NDArray[np.float64]:
        kernels = _kernels(table, efficiency)
        found = np.empty(len(table))
        for op, rows in groups:
            costs = kernels.decode_attention(op)
            n = batch[rows]
            data = costs.token_ns * n * (context[rows] + 1) + costs.query_ns * n
            found[rows] = efficiency.decode_us + np.sqrt((costs.item_ns * n) ** 2 + data**2) / NS_PER_US
        return found

    return times


def _prefill_times(table: Table) -> Times:
    groups = _attention_groups(table)
    batch, prompt = table.columns["batch_size"], table.columns["isl"]

    def times(efficiency: Efficiency) -> NDArray[np.float64]:
        kernels = _kernels(table, efficiency)
        found = np.empty(len(table))
        for op, rows in groups:
            costs = kernels.prefill_attention(op)
            lengths, inverse = np.unique(prompt[rows], return_inverse=True)
            one = np.array([costs.chunk_ns(int(length), 0) for length in lengths])
            found[rows] = efficiency.prefill_us + batch[rows] * one[inverse] / NS_PER_US
        return found

    return times


def _has(label: str, value: str) -> Callable[[Table], NDArray[np.bool_]]:
    return lambda table: table.labels[label] == value


def _full_attention(kv_cache_dtype: str) -> Callable[[Table], NDArray[np.bool_]]:
    """Heads of 64 and 128 elements without a window; wider heads run other, slower kernels."""

    def keep(table: Table) -> NDArray[np.bool_]:
        window = table.columns.get("window_size", np.zeros(len(table)))
        format_is = table.labels["kv_cache_dtype"] == kv_cache_dtype
        return np.asarray((window == 0) & (table.columns["head_dim"] <= 128) & format_is)

    return keep


KINDS = (
    Kind(
        "matrix products, bf16",
        "gemm",
        "gemm_perf",
        ("matrix_us", "matrix_compute", "matrix_bandwidth"),
        _has("gemm_dtype", "bfloat16"),
        _gemm_times(PLAIN_FORMATS["bf16"]),
    ),
    Kind(
        "matrix products, fp8",
        "gemm",
        "gemm_perf",
        ("quantized_us", "quantized_compute", "quantized_bandwidth"),
        _has("kernel_source", "CutlassFP8ScaledMMLinearKernel"),
        _gemm_times(QUANTIZED_FORMATS["fp8"]),
    ),
    Kind(
        "attention of prompts, KV in bf16",
        "attention",
        "context_attention_perf",
        ("prefill_us", "prefill_tile_us", "prefill_compute", "prefill_narrow", "prefill_bandwidth"),
        _full_attention("bfloat16"),
        _prefill_times,
    ),
    Kind(
        "attention of prompts, KV in fp8",
        "attention",
        "context_attention_perf",
        (),
        _full_attention("fp8"),
        _prefill_times,
    ),
    Kind(
        "attention of decodes, KV in bf16",
        "attention",
        "generation_attention_perf",
        ("decode_us", "decode_item_us", "decode_bandwidth"),
        _full_attention("bfloat16"),
        _decode_times,
    ),
    Kind(
        "attention of decodes, KV in fp8",
        "attention",
        "generation_attention_perf",
        ("decode_fp8_bandwidth",),
        _full_attention("fp8"),
        _decode_times,
    ),
    Kind(
        "products of experts, bf16, even routing",
        "moe",
        "moe_perf",
        ("experts_us", "expert_us", "experts_compute", "experts_bandwidth"),
        lambda table: (
            (table.labels["moe_dtype"] == "bfloat16")
            & (table.labels["distribution"] == "balanced")
            & (table.columns["moe_ep_size"] == 1)
        ),
        _experts_times,
    ),
)
