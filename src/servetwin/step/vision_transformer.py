"""Vision transformers: their sizes, and the operators that they consist of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from servetwin.llm.formats import plain_format
from servetwin.llm.operators import AttentionKernel, Elementwise, Gemm

BYTES_PER_ELEMENT = 2
"""They compute in 16 bits."""


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

    @property
    def layer_products(self) -> tuple[Gemm, ...]:
        """The products of one layer, applied to patches."""
        hidden, width = self.hidden_size, self.intermediate_size
        return tuple(
            _product(n, k) for n, k in ((3 * hidden, hidden), (hidden, hidden), (self._first, hidden), (hidden, width))
        )

    @property
    def layer_moves(self) -> tuple[Elementwise, ...]:
        """What else one layer does to patches."""
        return (
            Elementwise("norms", 1, "tokens", 4 * self.hidden_size, 4 * self.hidden_size),
            Elementwise("act_fn", 1, "tokens", self._first, self.intermediate_size),
        )

    @property
    def merger_products(self) -> tuple[Gemm, ...]:
        """The projection to the language model: two products over merged patches."""
        wide = self.hidden_size * self.patches_per_token
        return _product(wide, wide), _product(self.out_hidden_size, wide)

    @property
    def attention(self) -> AttentionKernel:
        """Attention of one layer."""
        head, both = self.hidden_size // self.num_heads, 2 * self.hidden_size * BYTES_PER_ELEMENT
        heads = self.num_heads
        return AttentionKernel("attention", 1, "mha", "prefill", heads, heads, head, head, None, "sliding", both)

    def sequences(self, tokens: Sequence[int], tokens_per_image: int | None) -> Iterator[tuple[int, float]]:
        """Yield what attends within itself in a batch: its patches, and how often they do, over layers and windows.

        Parameters
        ----------
        tokens
            Embeddings of each request.
        tokens_per_image
            A request with more has several images; None: it has one.
        """
        full = self.full_layers if self.window_patches else self.num_hidden_layers
        for image in _images(tokens, tokens_per_image):
            patches = image * self.patches_per_token
            yield patches, full
            if self.window_patches:
                windows, rest = divmod(patches, self.window_patches)
                others = self.num_hidden_layers - full
                yield self.window_patches, others * windows
                yield rest, others

    @property
    def _first(self) -> int:
        """Outputs of the MLP's first product."""
        return (2 if self.gated else 1) * self.intermediate_size


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


def _product(n: int, k: int) -> Gemm:
    return Gemm("product", 1, "tokens", n, k, plain_format("bf16"))


def _images(tokens: Sequence[int], tokens_per_image: int | None) -> list[int]:
    """Return the embeddings of each image."""
    images: list[int] = []
    for count in tokens:
        size = tokens_per_image or count
        whole, rest = divmod(count, size)
        images += [size] * whole + [rest] * (rest > 0)
    return images
