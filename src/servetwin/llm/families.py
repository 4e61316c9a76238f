"""What a family of models (Hugging Face ``model_type``) has beyond the sizes in its ``config.json``: one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from servetwin.llm.parts import QkNorm

Bias = Literal["never", "always", "config"]
"""``"config"``: where ``attention_bias`` (or ``mlp_bias``) of the config is true."""

Windows = Literal["none", "all", "qwen", "even", "pattern", "chunked"]
"""Which layers attend within a window, where ``layer_types`` does not say it: none; all, if ``sliding_window`` is set;
those from ``max_window_layers`` on, if ``use_sliding_window`` (Qwen); every other, from the first on; all but every
``sliding_window_pattern``-th (Gemma 3); all but every ``no_rope_layer_interval``-th, in chunks (Llama 4)."""

SparseLayers = Literal["all", "sparse_step", "first_dense", "interleaved"]
"""Which layers have experts: all; every ``decoder_sparse_step``-th that is not in ``mlp_only_layers`` (Qwen); those
from ``first_k_dense_replace`` on (DeepSeek); every ``interleave_moe_layer_step``-th (Llama 4)."""


@dataclass(frozen=True, slots=True)
class Experts:
    """How a family's config describes its experts; texts are keys.

    Attributes
    ----------
    num_experts, top_k, width
        Keys of the number of routed experts, of how many a token visits, of one expert's width.
    dense_width
        Key of the width of layers without experts.
    shared_count, shared_width
        Key of the number of shared experts (each as wide as a routed one), or of their width; empty: none.
    one_shared
        Whether there is always one shared expert.
    shared_gate, router_bias, bias
        See ``MixtureOfExperts``; ``router_bias`` may be a key.
    """

    num_experts: str
    top_k: str = "num_experts_per_tok"
    width: str = "moe_intermediate_size"
    dense_width: str = "intermediate_size"
    layers: SparseLayers = "all"
    shared_count: str = ""
    shared_width: str = ""
    one_shared: bool = False
    shared_gate: bool = False
    router_bias: bool | str = False
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """The tensors of a family.

    Attributes
    ----------
    qkv_bias, o_bias, mlp_bias
        Whether the projections add a bias.
    qk_norm
        How queries and keys are normalised.
    qk_norm_key
        Key that switches the norm off where it is false.
    latent
        Whether attention is MLA.
    norms, norm_bias, sinks
        See ``Layer`` and ``Attention``.
    defaults
        What transformers' configuration class takes where the file leaves a key out.
    """

    qkv_bias: Bias = "never"
    o_bias: Bias = "never"
    mlp_bias: Bias = "never"
    qk_norm: QkNorm = "none"
    qk_norm_key: str = ""
    latent: bool = False
    norms: int = 2
    norm_bias: bool = False
    sinks: bool = False
    windows: Windows = "none"
    experts: Experts | None = None
    key_value_heads_default: Literal["attention_heads", "required"] = "required"
    defaults: Mapping[str, object] = field(default_factory=dict)


_MIXTRAL_EXPERTS = Experts("num_local_experts", width="intermediate_size")
_DEEPSEEK_EXPERTS = Experts("n_routed_experts", layers="first_dense", shared_count="n_shared_experts")
_QWEN_EXPERTS = Experts("num_experts", layers="sparse_step")
_DEEPSEEK = Family(qkv_bias="config", o_bias="config", latent=True, experts=_DEEPSEEK_EXPERTS)
_DEEPSEEK_V3 = replace(_DEEPSEEK, experts=replace(_DEEPSEEK_EXPERTS, router_bias=True))
_GEMMA = Family(qkv_bias="config", o_bias="config", norms=4, windows="even", defaults={"tie_word_embeddings": True})

FAMILIES = {
    "llama": Family(qkv_bias="config", o_bias="config", mlp_bias="config", key_value_heads_default="attention_heads"),
    "llama4_text": Family(
        qkv_bias="config",
        o_bias="config",
        qk_norm="parameterless",
        qk_norm_key="use_qk_norm",
        windows="chunked",
        experts=Experts(
            "num_local_experts",
            width="intermediate_size",
            dense_width="intermediate_size_mlp",
            layers="interleaved",
            one_shared=True,
        ),
        defaults={"no_rope_layer_interval": 4, "attention_chunk_size": 8192},
    ),
    "mistral": Family(windows="all"),
    "mixtral": Family(windows="all", experts=_MIXTRAL_EXPERTS),
    "qwen2": Family(qkv_bias="always", windows="qwen"),
    "qwen2_moe": Family(
        qkv_bias="always",
        windows="qwen",
        experts=replace(_QWEN_EXPERTS, shared_width="shared_expert_intermediate_size", shared_gate=True),
    ),
    "qwen3": Family(qkv_bias="config", o_bias="config", qk_norm="head", windows="qwen"),
    "qwen3_moe": Family(qkv_bias="config", o_bias="config", qk_norm="head", windows="qwen", experts=_QWEN_EXPERTS),
    "gemma2": _GEMMA,
    "gemma3_text": replace(
        _GEMMA,
        qk_norm="head",
        windows="pattern",
        defaults={
            "tie_word_embeddings": True,
            "sliding_window_pattern": 6,
            "vocab_size": 262208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "max_position_embeddings": 131072,
        },
    ),
    "phi3": Family(windows="all", key_value_heads_default="attention_heads"),
    "phimoe": Family(qkv_bias="config", o_bias="config", norm_bias=True, windows="all", experts=_MIXTRAL_EXPERTS),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK_V3,
    "kimi_k2": _DEEPSEEK_V3,
    "gpt_oss": Family(
        qkv_bias="always",
        o_bias="always",
        sinks=True,
        windows="even",
        experts=replace(_MIXTRAL_EXPERTS, router_bias=True, bias=True),
        defaults={"torch_dtype": "bfloat16"},
    ),
    "glm4_moe": Family(
        qkv_bias="config",
        qk_norm="head",
        qk_norm_key="use_qk_norm",
        experts=replace(_DEEPSEEK_EXPERTS, router_bias=True),
    ),
    "minimax_m2": Family(
        qk_norm="projection",
        qk_norm_key="use_qk_norm",
        experts=replace(_MIXTRAL_EXPERTS, router_bias="use_routing_bias"),
        defaults={"torch_dtype": "bfloat16"},
    ),
}
"""Source: the model and configuration classes of Hugging Face transformers 4.57 (``modeling_llama.py`` and so on), for
kimi_k2 and minimax_m2 those that their publishers ship beside the weights."""

WRAPPERS = {"llama4": "llama4_text", "gemma3": "gemma3_text", "mistral3": "mistral", "kimi_k25": "kimi_k2"}
"""``model_type`` of configs that hold the text model in ``text_config``, and what its type is where that does not say
it. Only the text model is described: no vision tower."""

EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Keys by which a config says that it has a mixture of experts."""

UNMODELLED_KEYS = {
    "index_topk": "sparse attention with an indexer",
    "linear_num_value_heads": "linear attention",
    "linear_attn_config": "linear attention",
    "full_attention_interval": "layers with another kind of attention",
    "ssm_state_size": "state-space layers",
    "mamba_d_state": "state-space layers",
    "state_size": "state-space layers",
    "hybrid_override_pattern": "a mix of state-space, attention and MLP layers",
    "block_configs": "layers of different sizes",
    "is_encoder_decoder": "an encoder",
    "alibi": "ALiBi positions",
    "n_embd": "a layout before Llama (names such as n_embd)",
}
"""Keys that show why an unknown family cannot simply be read as a known one."""
