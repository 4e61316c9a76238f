"""How long an encoder of images takes for a batch, and what it computes: measured, or a vision transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from servetwin.core.units import NS_PER_US
from servetwin.hardware.base import Device
from servetwin.step.efficiency import family_efficiency
from servetwin.step.kernels import Kernels, causal_pairs
from servetwin.step.vision_transformer import VisionTransformer


class EncoderWork(NamedTuple):
    """What a batch computes and moves: operations, bytes of weights and activations, bytes that attention reads."""

    flops: float
    weight_bytes: float
    kv_bytes: float


@dataclass(frozen=True, slots=True)
class MeasuredEncoder:
    """A batch takes ``per_batch_us``, ``per_request_us`` for each request and ``per_token_us`` for each embedding."""

    per_batch_us: float = 0.0
    per_request_us: float = 0.0
    per_token_us: float = 0.0

    def batch_ns(self, tokens: Sequence[int]) -> int:
        """Return the time of a batch."""
        time_us = self.per_batch_us + self.per_request_us * len(tokens) + self.per_token_us * sum(tokens)
        return max(1, round(time_us * NS_PER_US))


class VisionEncoder:
    """A vision transformer on one device, computing in 16 bits.

    The kernels are those of the language model's roofline: products over all patches of a batch, attention within each
    image (or window), both ways.

    Parameters
    ----------
    sizes, device
        The encoder and its accelerator.
    tokens_per_image
        A request with more embeddings has several images; None: it has one.

    Raises
    ------
    InputError
        If the device does not compute in bf16.
    """

    def __init__(self, sizes: VisionTransformer, device: Device, tokens_per_image: int | None = None) -> None:
        self._sizes, self._tokens_per_image = sizes, tokens_per_image
        self._efficiency = family_efficiency(device.family)
        device.peak("bf16")
        self._kernels = Kernels(device, self._efficiency, "bf16")
        self._attention_op = sizes.attention
        self._attention = self._kernels.prefill_attention(self._attention_op)
        self._products, self._merger, self._moves = sizes.layer_products, sizes.merger_products, sizes.layer_moves

    def batch_ns(self, tokens: Sequence[int]) -> int:
        """Return the time of a batch."""
        sizes, kernels = self._sizes, self._kernels
        merged = np.array([float(sum(tokens))])
        rows = merged * sizes.patches_per_token
        products = sum(float(kernels.gemm_ns(op, rows)[0]) for op in self._products)
        moves = sum(float(kernels.elementwise_ns(op, rows)[0]) for op in self._moves)
        merger = sum(float(kernels.gemm_ns(op, merged)[0]) for op in self._merger)
        layers_ns = sizes.num_hidden_layers * (products + moves + self._fixed_ns)
        return max(1, round(layers_ns + merger + self._attention_ns(tokens)))

    def work(self, tokens: Sequence[int]) -> EncoderWork:
        """Return what a batch computes and moves."""
        sizes, layers = self._sizes, self._sizes.num_hidden_layers
        merged = float(sum(tokens))
        rows = merged * sizes.patches_per_token
        flops = moved = kv_bytes = 0.0
        for products, items, runs in ((self._products, rows, layers), (self._merger, merged, 1)):
            for op in products:
                flops += runs * op.flops(items)
                moved += runs * (op.bytes_read(items) + op.bytes_written(items))
        moved += layers * sum(op.bytes_read(rows) + op.bytes_written(rows) for op in self._moves)
        attention = self._attention_op
        for patches, count in sizes.sequences(tokens, self._tokens_per_image):
            flops += count * attention.flops_per_pair * causal_pairs(patches, _context(patches), 0)
            read = attention.kv_bytes_per_token * (patches + _context(patches))
            kv_bytes += count * (read + attention.bytes_per_query * patches)
        return EncoderWork(flops, moved, kv_bytes)

    @property
    def _fixed_ns(self) -> float:
        return (self._efficiency.layer_us + self._efficiency.prefill_us) * NS_PER_US

    def _attention_ns(self, tokens: Sequence[int]) -> float:
        parts = self._sizes.sequences(tokens, self._tokens_per_image)
        return sum(count * self._attention.chunk_ns(patches, _context(patches)) for patches, count in parts if patches)


def _context(patches: int) -> int:
    """Return the context after which as many new tokens read about as much as patches among themselves, both ways."""
    return max(0, (patches - 1) // 2)
