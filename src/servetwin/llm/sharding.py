"""Whether tensor-parallel ranks can share a layer evenly."""

from __future__ import annotations

from servetwin.llm.formats import WeightFormat
from servetwin.llm.parts import LatentAttention, Layer, MixtureOfExperts


def widths(layer: Layer) -> list[int]:
    """Return the widths of a layer's MLP, or of its routed and shared experts."""
    mlp = layer.mlp
    shared = mlp.shared_intermediate_size if isinstance(mlp, MixtureOfExperts) else 0
    return [mlp.intermediate_size, shared] if shared else [mlp.intermediate_size]


def divides(layer: Layer, ranks: int, block: int = 1) -> bool:
    """Return whether ``ranks`` ranks share the heads and the MLP evenly, without cutting blocks of ``block`` inputs.

    A block is what shares a scale; engines refuse to cut it. It counts only where the MLP is quantised.
    """
    attention = layer.attention
    kv_heads = attention.num_kv_heads
    even_kv = isinstance(attention, LatentAttention) or kv_heads % ranks == 0 or ranks % kv_heads == 0
    whole = ranks * (block if is_quantized(layer) else 1)
    return attention.num_heads % ranks == 0 and even_kv and all(width % whole == 0 for width in widths(layer))


def is_quantized(layer: Layer) -> bool:
    """Return whether a layer's MLP, or its experts, are quantised where the model is."""
    groups = {"experts", "shared_experts"} if isinstance(layer.mlp, MixtureOfExperts) else {"mlp"}
    return not groups <= layer.unquantized


def uncut_block(form: WeightFormat | None) -> int:
    """Return the inputs that share a scale in ``form`` and must stay on one rank; 1: no such rule.

    Source: vLLM's error "not divisible by weight quantization block_n"
    (https://github.com/vllm-project/vllm/issues/17569);
    for 4-bit floats it pads instead.
    """
    if form is None or form.block is None or form.name not in ("fp8", "int8", "int4"):
        return 1
    return max(1, form.block[1])
