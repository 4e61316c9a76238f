"""What a family of dense models (Hugging Face ``model_type``) has beyond the sizes in its ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Bias = Literal["never", "always", "config"]
"""``"config"``: where ``attention_bias`` (or ``mlp_bias``) of the config is true."""


@dataclass(frozen=True, slots=True)
class Family:
    """The tensors of a family.

    Attributes
    ----------
    qkv_bias, o_bias, mlp_bias
        Whether the projections add a bias.
    qk_norm
        Whether each head's query and key are normalised (two weights of ``head_dim`` per layer).
    key_value_heads_default
        ``"attention_heads"`` if transformers takes a missing ``num_key_value_heads`` as multi-head attention.
    """

    qkv_bias: Bias = "never"
    o_bias: Bias = "never"
    mlp_bias: Bias = "never"
    qk_norm: bool = False
    key_value_heads_default: Literal["attention_heads", "required"] = "required"


FAMILIES = {
    "llama": Family(qkv_bias="config", o_bias="config", mlp_bias="config", key_value_heads_default="attention_heads"),
    "mistral": Family(),
    "qwen2": Family(qkv_bias="always"),
    "qwen3": Family(qkv_bias="config", o_bias="config", qk_norm=True),
}
"""Source: the model classes of Hugging Face transformers 4.5x (``modeling_llama.py`` and so on)."""

EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Keys by which a config says that it has a mixture of experts."""
