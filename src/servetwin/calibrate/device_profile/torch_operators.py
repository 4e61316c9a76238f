"""The operators in PyTorch: from a point to functions that call it once, on random data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from servetwin.calibrate.device_profile.points import Point, point_work
from servetwin.calibrate.device_profile.runner import NotMeasurable

Call = Callable[[], Any]

DTYPES = {
    "fp32": "float32",
    "tf32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "float8_e4m3fn",
    "int8": "int8",
}
ROTATION_BYTES = {"cuda": 512 * 2**20, "cpu": 64 * 2**20}
"""Weights and KV are cycled through as many copies as make up this much, so that no cache holds them between calls."""
MAX_COPIES = 32


@dataclass(frozen=True, slots=True)
class Calls:
    """Functions that each call an operator once, on weights (or KV) of their own; and the name of what they call."""

    functions: Sequence[Call]
    kernel: str


def copies_of(num_bytes: int, device_type: str) -> int:
    """Return how many copies of something of this size are cycled through."""
    return max(1, min(MAX_COPIES, -(-ROTATION_BYTES[device_type] // max(num_bytes, 1))))


class Operators:
    """Builds calls on one device.

    Parameters
    ----------
    torch
        The module.
    device
        A ``torch.device``.
    """

    def __init__(self, torch: Any, device: Any) -> None:
        self._torch = torch
        self._device = device
        self._builders: dict[str, Callable[[Point], Calls]] = {
            "gemm": self._gemm,
            "grouped_gemm": self._grouped_gemm,
            "attention_prefill": self._prefill,
            "attention_decode": self._decode,
            "rms_norm": self._rms_norm,
            "silu_and_mul": self._silu_and_mul,
            "copy": self._copy,
        }

    def build(self, point: Point) -> Calls:
        """Return the calls of a point.

        Raises
        ------
        NotMeasurable
            If PyTorch has no such kernel here.
        """
        return self._builders[point.operator](point)

    def _random(self, name: str, *shape: int) -> Any:
        """Return normal random numbers; zeros would draw less power and run faster."""
        torch = self._torch
        if name == "int8":
            return torch.randint(-128, 128, shape, dtype=torch.int8, device=self._device)
        dtype = getattr(torch, DTYPES[name])
        made = torch.randn(*shape, dtype=torch.bfloat16 if name == "fp8" else dtype, device=self._device)
        return made.to(dtype)

    def _gemm(self, point: Point) -> Calls:
        name = point.word("format")
        m, n, k = (point.number(key) for key in ("m", "n", "k"))
        x = self._random(name, m, k)
        copies = copies_of(point_work(Point("gemm", (name, 1, n, k))).num_bytes, self._device.type)
        weights = [self._random(name, n, k) for _ in range(copies)]
        product, kernel = self._product(name, x)
        return Calls([lambda w=w: product(w) for w in weights], kernel)  # type: ignore[misc]

    def _product(self, name: str, x: Any) -> tuple[Callable[[Any], Any], str]:
        """Return ``w -> x w^T`` in a format, and the name of its kernel."""
        torch = self._torch
        if name == "fp8":
            if not hasattr(torch, "_scaled_mm"):
                raise NotMeasurable("this PyTorch has no _scaled_mm")
            one = torch.ones((), dtype=torch.float32, device=self._device)
            return lambda w: torch._scaled_mm(x, w.t(), one, one, out_dtype=torch.bfloat16), "torch._scaled_mm"
        if name == "int8":
            if not hasattr(torch, "_int_mm"):
                raise NotMeasurable("this PyTorch has no _int_mm")
            return lambda w: torch._int_mm(x, w.t()), "torch._int_mm"
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        return lambda w: torch.nn.functional.linear(x, w), "torch.nn.functional.linear"

    def _grouped_gemm(self, point: Point) -> Calls:
        torch, name = self._torch, point.word("format")
        experts, m, n, k = (point.number(key) for key in ("experts", "tokens_per_expert", "n", "k"))
        copies = copies_of(experts * n * k * 2, self._device.type)
        weights = [self._random(name, experts, n, k).transpose(1, 2) for _ in range(copies)]
        grouped = getattr(torch.nn.functional, "grouped_mm", None)
        if grouped is not None and name == "bf16":
            x = self._random(name, experts * m, k)
            ends = torch.arange(1, experts + 1, dtype=torch.int32, device=self._device) * m
            try:
                grouped(x, weights[0], offs=ends)
            except (RuntimeError, NotImplementedError):
                pass
            else:
                kernel = "torch.nn.functional.grouped_mm"
                return Calls([lambda w=w: grouped(x, w, offs=ends) for w in weights], kernel)  # type: ignore[misc]
        batched = self._random(name, experts, m, k)
        return Calls([lambda w=w: torch.bmm(batched, w) for w in weights], "torch.bmm")  # type: ignore[misc]

    def _prefill(self, point: Point) -> Calls:
        torch, name = self._torch, point.word("format")
        heads, kv_heads, dim = (point.number(key) for key in ("query_heads", "kv_heads", "head_dim"))
        chunk, context = point.number("chunk_tokens"), point.number("context_tokens")
        total = chunk + context
        q = self._random(name, 1, heads, chunk, dim)
        attention = torch.nn.functional.scaled_dot_product_attention
        options: dict[str, Any] = {"is_causal": True, "enable_gqa": True}
        kernel = "scaled_dot_product_attention(is_causal)"
        if context:
            from torch.nn.attention.bias import causal_lower_right

            options = {"attn_mask": causal_lower_right(chunk, total), "enable_gqa": True}
            kernel = "scaled_dot_product_attention(causal_lower_right)"
        copies = copies_of(2 * total * kv_heads * dim * 2, self._device.type)
        pairs = [[self._random(name, 1, kv_heads, total, dim) for _ in range(2)] for _ in range(copies)]
        return Calls([lambda k=k, v=v: attention(q, k, v, **options) for k, v in pairs], kernel)  # type: ignore[misc]

    def _decode(self, point: Point) -> Calls:
        """Let the heads that share KV stand as the query's tokens: the same work, without copying KV per head."""
        torch, name = self._torch, point.word("format")
        heads, kv_heads, dim = (point.number(key) for key in ("query_heads", "kv_heads", "head_dim"))
        batch, context = point.number("batch"), point.number("context_tokens")
        q = self._random(name, batch, kv_heads, heads // kv_heads, dim)
        attention = torch.nn.functional.scaled_dot_product_attention
        copies = copies_of(2 * batch * context * kv_heads * dim * 2, self._device.type)
        pairs = [[self._random(name, batch, kv_heads, context, dim) for _ in range(2)] for _ in range(copies)]
        kernel = "scaled_dot_product_attention(heads as queries)"
        return Calls([lambda k=k, v=v: attention(q, k, v) for k, v in pairs], kernel)  # type: ignore[misc]

    def _rms_norm(self, point: Point) -> Calls:
        name, width = point.word("format"), point.number("width")
        x, weight = self._random(name, point.number("tokens"), width), self._random(name, width)
        norm = self._torch.nn.functional.rms_norm
        return Calls([lambda: norm(x, (width,), weight)], "torch.nn.functional.rms_norm")

    def _silu_and_mul(self, point: Point) -> Calls:
        """Two kernels, where an engine has one: PyTorch has none that does both."""
        width = point.number("width")
        x = self._random(point.word("format"), point.number("tokens"), 2 * width)
        silu = self._torch.nn.functional.silu
        return Calls([lambda: silu(x[:, :width]) * x[:, width:]], "silu, mul")

    def _copy(self, point: Point) -> Calls:
        size, direction = point.number("bytes"), point.word("direction")
        ends = direction.split("_to_")
        copies = copies_of(2 * size, self._device.type)
        pairs = [[self._bytes(size, end) for end in ends] for _ in range(copies)]
        return Calls([lambda a=a, b=b: b.copy_(a, non_blocking=True) for a, b in pairs], "Tensor.copy_")  # type: ignore[misc]

    def _bytes(self, size: int, end: str) -> Any:
        torch = self._torch
        if end == "host":
            return torch.zeros(size, dtype=torch.uint8, pin_memory=True)
        return torch.randint(0, 256, (size,), dtype=torch.uint8, device=self._device)
