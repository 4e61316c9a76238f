"""What can be measured: operators, the keys by which one of them is told from another, and the work in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

OPERATORS: dict[str, tuple[str, ...]] = {
    "gemm": ("format", "m", "n", "k"),
    "grouped_gemm": ("format", "experts", "tokens_per_expert", "n", "k"),
    "attention_prefill": ("format", "query_heads", "kv_heads", "head_dim", "chunk_tokens", "context_tokens"),
    "attention_decode": ("format", "query_heads", "kv_heads", "head_dim", "batch", "context_tokens"),
    "rms_norm": ("format", "tokens", "width"),
    "silu_and_mul": ("format", "tokens", "width"),
    "copy": ("direction", "bytes"),
    "launch": ("mode", "kernels"),
    "power": ("state",),
}
"""Operators and their keys, in the order of the columns. A table may lack operators, never keys."""

TEXT_KEYS = frozenset({"format", "direction", "mode", "state"})
"""Keys that are words; all others are whole numbers of at least 0."""

FORMATS = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8")
DIRECTIONS = ("device_to_device", "host_to_device", "device_to_host")
LAUNCH_MODES = ("eager", "graph_replay")
POWER_STATES = ("idle", "gemm", "copy")
WORDS = {"format": FORMATS, "direction": DIRECTIONS, "mode": LAUNCH_MODES, "state": POWER_STATES}

ELEMENT_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
PRODUCT_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 2, "int8": 4}
"""Bytes of one element of an operand, and of a matrix product's result."""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One operator at one size.

    Attributes
    ----------
    operator
        One of `OPERATORS`.
    keys
        The values of its keys, in their order.
    """

    operator: str
    keys: tuple[str | int, ...]

    def number(self, key: str) -> int:
        """Return the value of a key that is a number."""
        return int(self.keys[OPERATORS[self.operator].index(key)])

    def word(self, key: str) -> str:
        """Return the value of a key that is a word."""
        return str(self.keys[OPERATORS[self.operator].index(key)])

    def __str__(self) -> str:
        values = zip(OPERATORS[self.operator], self.keys, strict=True)
        return f"{self.operator} {' '.join(f'{name}={value}' for name, value in values)}"


class PointWork(NamedTuple):
    """Floating-point operations, and bytes that memory (or the link to the host) must move at least."""

    flops: int
    num_bytes: int


def point_work(point: Point) -> PointWork:
    """Return the least work in one call of a point; none for launches and power."""
    counter = _WORK.get(point.operator)
    return counter(point) if counter else PointWork(0, 0)


def _gemm(point: Point) -> PointWork:
    m, n, k = (point.number(key) for key in ("m", "n", "k"))
    size, result = ELEMENT_BYTES[point.word("format")], PRODUCT_BYTES[point.word("format")]
    return PointWork(2 * m * n * k, (m * k + n * k) * size + m * n * result)


def _grouped_gemm(point: Point) -> PointWork:
    experts, m, n, k = (point.number(key) for key in ("experts", "tokens_per_expert", "n", "k"))
    one = _gemm(Point("gemm", (point.word("format"), m, n, k)))
    return PointWork(experts * one.flops, experts * one.num_bytes)


def _prefill(point: Point) -> PointWork:
    """Causal: the chunk's token i sees the context and i + 1 tokens of the chunk."""
    chunk, context = point.number("chunk_tokens"), point.number("context_tokens")
    pairs = chunk * context + chunk * (chunk + 1) // 2
    return _attention(point, pairs, queries=chunk, kv_tokens=chunk + context)


def _decode(point: Point) -> PointWork:
    batch = point.number("batch")
    kv_tokens = batch * point.number("context_tokens")
    return _attention(point, kv_tokens, queries=batch, kv_tokens=kv_tokens)


def _attention(point: Point, pairs: int, *, queries: int, kv_tokens: int) -> PointWork:
    heads, kv_heads, dim = (point.number(key) for key in ("query_heads", "kv_heads", "head_dim"))
    elements = 2 * queries * heads * dim + 2 * kv_tokens * kv_heads * dim
    return PointWork(4 * pairs * heads * dim, elements * ELEMENT_BYTES[point.word("format")])


def _norm(point: Point) -> PointWork:
    elements = point.number("tokens") * point.number("width")
    return PointWork(4 * elements, 2 * elements * ELEMENT_BYTES[point.word("format")])


def _silu(point: Point) -> PointWork:
    """``width`` of the result; the input is twice as wide."""
    elements = point.number("tokens") * point.number("width")
    return PointWork(5 * elements, 3 * elements * ELEMENT_BYTES[point.word("format")])


def _copy(point: Point) -> PointWork:
    """Within the device each byte is read and written by the same memory; to or from the host it crosses once."""
    times = 2 if point.word("direction") == "device_to_device" else 1
    return PointWork(0, times * point.number("bytes"))


_WORK: dict[str, Callable[[Point], PointWork]] = {
    "gemm": _gemm,
    "grouped_gemm": _grouped_gemm,
    "attention_prefill": _prefill,
    "attention_decode": _decode,
    "rms_norm": _norm,
    "silu_and_mul": _silu,
    "copy": _copy,
}
