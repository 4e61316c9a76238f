"""How long an encoder of images takes for a batch: measured, or a vision transformer on a roofline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servetwin.core.units import NS_PER_US
from servetwin.hardware.base import Device
from servetwin.llm.formats import plain_format
from servetwin.llm.operators import AttentionKernel, Elementwise, Gemm
from servetwin.step.efficiency import family_efficiency
from servetwin.step.kernels import Kernels, Numbers


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


@dataclass(frozen=True, slots=True)
class VisionTransformer:
    """Sizes of a vision encoder, by the names of its ``vision_config``.

    Attributes
    ----------
    gated
        Whether the MLP has a gate beside its first product.
    patches_per_token
        Patches that are merged to one embedding (4 where 2 x 2 are).
    out_hidden_size
        Of an embedding: the language model's hidden size.
    window_patches, full_layers
        Patches that attend to each other in all but ``full_layers`` layers; 0: each to its whole image, everywhere.
    """

    hidden_size: int
    num_hidden_layers: int
    num_heads: int
    intermediate_size: int
    gated: bool = False
    patches_per_token: int = 1
    out_hidden_size: int = 4096
    window_patches: int = 0
    full_layers: int = 0


VISION_TRANSFORMERS = {
    "clip-vit-large-patch14-336": VisionTransformer(1024, 24, 16, 4096),
    "siglip-so400m-patch14": VisionTransformer(1152, 27, 16, 4304),
    "internvit-300m": VisionTransformer(1024, 24, 16, 4096, patches_per_token=4),
    "internvit-6b": VisionTransformer(3200, 45, 25, 12800, patches_per_token=4),
    "qwen2-vl": VisionTransformer(1280, 32, 16, 5120, patches_per_token=4),
    "qwen2.5-vl": VisionTransformer(1280, 32, 16, 3420, True, 4, window_patches=64, full_layers=4),
}
"""Published sizes (each model's ``config.json``). ``qwen2.5-vl`` attends within windows of 8 x 8 patches in all layers
but four (arXiv 2502.13923)."""


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
        head = sizes.hidden_size // sizes.num_heads
        keys_and_values = 4 * sizes.hidden_size  # bytes per patch, both in 16 bits
        heads = sizes.num_heads
        attention = AttentionKernel(
            "attention", 1, "mha", "prefill", heads, heads, head, head, None, "sliding", keys_and_values
        )
        self._attention = self._kernels.prefill_attention(attention)

    def batch_ns(self, tokens: Sequence[int]) -> int:
        """Return the time of a batch."""
        sizes = self._sizes
        rows = np.array([float(sum(tokens) * sizes.patches_per_token)])
        layers_ns = sizes.num_hidden_layers * (self._products_ns(rows) + self._fixed_ns)
        return max(1, round(layers_ns + self._merger_ns(rows) + self._attention_ns(tokens)))

    @property
    def _fixed_ns(self) -> float:
        return (self._efficiency.layer_us + self._efficiency.prefill_us) * NS_PER_US

    def _products_ns(self, rows: Numbers) -> float:
        hidden, width = self._sizes.hidden_size, self._sizes.intermediate_size
        first = (2 if self._sizes.gated else 1) * width
        shapes = ((3 * hidden, hidden), (hidden, hidden), (first, hidden), (hidden, width))
        products = sum(self._gemm_ns(n, k, rows) for n, k in shapes)
        norms = Elementwise("norms", 1, "tokens", 4 * hidden, 4 * hidden)
        activation = Elementwise("act_fn", 1, "tokens", first, width)
        moved = sum(float(self._kernels.elementwise_ns(op, rows)[0]) for op in (norms, activation))
        return products + moved

    def _merger_ns(self, rows: Numbers) -> float:
        """Return the time of the projection to the language model: two products over merged patches."""
        wide = self._sizes.hidden_size * self._sizes.patches_per_token
        merged = rows / self._sizes.patches_per_token
        return self._gemm_ns(wide, wide, merged) + self._gemm_ns(self._sizes.out_hidden_size, wide, merged)

    def _gemm_ns(self, n: int, k: int, rows: Numbers) -> float:
        return float(self._kernels.gemm_ns(Gemm("product", 1, "tokens", n, k, plain_format("bf16")), rows)[0])

    def _attention_ns(self, tokens: Sequence[int]) -> float:
        sizes = self._sizes
        full = sizes.full_layers if sizes.window_patches else sizes.num_hidden_layers
        total = 0.0
        for image in self._images(tokens):
            total += full * self._within_ns(image)
            if sizes.window_patches:
                windows, rest = divmod(image, sizes.window_patches)
                part = windows * self._within_ns(sizes.window_patches) + self._within_ns(rest)
                total += (sizes.num_hidden_layers - full) * part
        return total

    def _images(self, tokens: Sequence[int]) -> list[int]:
        """Return the patches of each image."""
        images: list[int] = []
        for count in tokens:
            size = self._tokens_per_image or count
            whole, rest = divmod(count, size)
            images += [size * self._sizes.patches_per_token] * whole
            images += [rest * self._sizes.patches_per_token] if rest else []
        return images

    def _within_ns(self, patches: int) -> float:
        """Return the attention of patches among themselves: as of a chunk after half as much context."""
        return self._attention.chunk_ns(patches, (patches - 1) // 2) if patches else 0.0
