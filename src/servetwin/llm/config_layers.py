"""Reading what a config says of its layers: attention, windows, MLPs and experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

from servetwin.core.fields import Fields
from servetwin.llm.families import Bias, Experts, Family
from servetwin.llm.parts import Attention, LatentAttention, MixtureOfExperts, Mlp, QkNorm


class Window(NamedTuple):
    """A layer's window; ``tokens`` of None: full attention."""

    tokens: int | None = None
    kind: Literal["sliding", "chunked"] = "sliding"


FULL = Window()


def read_attention(fields: Fields, family: Family) -> Attention | LatentAttention:
    """Return the attention that all layers share but for their windows."""
    heads = fields.integer("num_attention_heads")
    qkv_bias = _bias(family.qkv_bias, fields, "attention_bias")
    o_bias = _bias(family.o_bias, fields, "attention_bias")
    if family.latent:
        return _latent_attention(fields, heads, qkv_bias, o_bias)
    return Attention(
        num_heads=heads,
        num_kv_heads=_key_value_heads(fields, family, heads),
        head_dim=_head_dim(fields, heads),
        qkv_bias=qkv_bias,
        o_bias=o_bias,
        qk_norm=_qk_norm(fields, family),
        sinks=family.sinks,
    )


def _latent_attention(fields: Fields, heads: int, qkv_bias: bool, o_bias: bool) -> LatentAttention:
    return LatentAttention(
        num_heads=heads,
        q_lora_rank=fields.integer("q_lora_rank") if "q_lora_rank" in fields else None,
        kv_lora_rank=fields.integer("kv_lora_rank"),
        qk_nope_head_dim=fields.integer("qk_nope_head_dim"),
        qk_rope_head_dim=fields.integer("qk_rope_head_dim"),
        v_head_dim=fields.integer("v_head_dim"),
        qkv_bias=qkv_bias,
        o_bias=o_bias,
    )


def _key_value_heads(fields: Fields, family: Family, heads: int) -> int:
    if family.key_value_heads_default == "attention_heads":
        kv_heads = fields.integer("num_key_value_heads", heads)
    else:
        kv_heads = fields.integer("num_key_value_heads")
    if heads % kv_heads:
        raise fields.error("num_attention_heads", f"({heads}) must be a multiple of num_key_value_heads ({kv_heads})")
    return kv_heads


def _head_dim(fields: Fields, heads: int) -> int:
    if "head_dim" in fields:
        return fields.integer("head_dim")
    hidden = fields.integer("hidden_size")
    if hidden % heads:
        raise fields.error(
            "hidden_size", f"({hidden}) is not divisible by num_attention_heads ({heads}), and head_dim is not given"
        )
    return hidden // heads


def _bias(rule: Bias, fields: Fields, key: str) -> bool:
    return rule == "always" or (rule == "config" and fields.flag(key, False))


def _qk_norm(fields: Fields, family: Family) -> QkNorm:
    if family.qk_norm_key and not fields.flag(family.qk_norm_key, False):
        return "none"
    return family.qk_norm


def read_windows(fields: Fields, family: Family, layers: int) -> list[Window]:
    """Return each layer's window: from ``layer_types`` where given, else by the family's rule."""
    if family.windows == "none":
        _refuse_window(fields)
        return [FULL] * layers
    chunked = family.windows == "chunked"
    window = _window(fields, "attention_chunk_size" if chunked else "sliding_window", chunked)
    if window == FULL:
        return [FULL] * layers
    windowed = _layer_types(fields, layers) if "layer_types" in fields else _by_rule(fields, family, layers)
    return [window if has else FULL for has in windowed]


def _refuse_window(fields: Fields) -> None:
    if "sliding_window" in fields and fields.flag("use_sliding_window", True):
        window = _window(fields, "sliding_window", False)
        if window != FULL:
            raise fields.error(
                "sliding_window",
                f"of {window.tokens} tokens: {fields.text('model_type')} models attend to everything; remove it",
            )
    if "attn_type_list" in fields and fields.raw("attn_type_list") != [1] * fields.integer("num_hidden_layers"):
        raise fields.error("attn_type_list", "must be 1 for each layer: linear attention is not described yet")
    if "layer_types" in fields and any(_layer_types(fields, fields.integer("num_hidden_layers"))):
        raise fields.error("layer_types", f"has windows, which {fields.text('model_type')} models have not")


def _window(fields: Fields, key: str, chunked: bool) -> Window:
    """Return the window, full attention where there is none or none that is smaller than the longest context."""
    if key not in fields:
        return FULL
    tokens = fields.integer(key)
    if tokens >= fields.integer("max_position_embeddings"):
        return FULL
    return Window(tokens, "chunked" if chunked else "sliding")


def _layer_types(fields: Fields, layers: int) -> list[bool]:
    """Return which layers have a window."""
    types = fields.texts("layer_types")
    if len(types) != layers:
        raise fields.error("layer_types", f"has {len(types)} entries for num_hidden_layers ({layers})")
    known = ("full_attention", "sliding_attention", "chunked_attention")
    for kind in types:
        if kind not in known:
            raise fields.error("layer_types", f"has {kind!r}; layers that are described: {', '.join(known)}")
    return [kind != "full_attention" for kind in types]


def _by_rule(fields: Fields, family: Family, layers: int) -> list[bool]:
    if family.windows == "all":
        return [True] * layers
    if family.windows == "even":
        return [index % 2 == 0 for index in range(layers)]
    if family.windows == "qwen":
        if not fields.flag("use_sliding_window", False):
            return [False] * layers
        first = _count(fields, "max_window_layers")
        return [index >= first for index in range(layers)]
    period = fields.integer("sliding_window_pattern" if family.windows == "pattern" else "no_rope_layer_interval")
    return [(index + 1) % period != 0 for index in range(layers)]


def read_mlps(fields: Fields, family: Family, layers: int) -> list[Mlp | MixtureOfExperts]:
    """Return each layer's MLP or experts."""
    experts = family.experts
    if experts is None:
        return [Mlp(fields.integer("intermediate_size"), _bias(family.mlp_bias, fields, "mlp_bias"))] * layers
    sparse = _SPARSE_LAYERS[experts.layers](fields, layers)
    mixture = _mixture(fields, experts)
    dense: Mlp | MixtureOfExperts = mixture
    if not all(sparse):
        dense = Mlp(fields.integer(experts.dense_width), _bias(family.mlp_bias, fields, "mlp_bias"))
    return [mixture if has else dense for has in sparse]


def _mixture(fields: Fields, experts: Experts) -> MixtureOfExperts:
    number, top_k = fields.integer(experts.num_experts), fields.integer(experts.top_k)
    if top_k > number:
        raise fields.error(experts.top_k, f"({top_k}) is more than {experts.num_experts} ({number})")
    mixture = MixtureOfExperts(number, top_k, fields.integer(experts.width), bias=experts.bias)
    rule = experts.router_bias
    return replace(
        mixture,
        shared_intermediate_size=_shared_width(fields, experts, mixture.intermediate_size),
        shared_gate=experts.shared_gate,
        router_bias=fields.flag(rule, False) if isinstance(rule, str) else rule,
    )


def _shared_width(fields: Fields, experts: Experts, width: int) -> int:
    if experts.one_shared:
        return width
    if experts.shared_count:
        return width * _count(fields, experts.shared_count, 0)
    return fields.integer(experts.shared_width) if experts.shared_width else 0


def _sparse_step(fields: Fields, layers: int) -> list[bool]:
    step = fields.integer("decoder_sparse_step", 1)
    dense = fields.raw("mlp_only_layers") if "mlp_only_layers" in fields else []
    if not isinstance(dense, list) or not all(isinstance(index, int) for index in dense):
        raise fields.error("mlp_only_layers", f"must be a list of whole numbers, got {dense!r}")
    return [(index + 1) % step == 0 and index not in dense for index in range(layers)]


def _first_dense(fields: Fields, layers: int) -> list[bool]:
    first, step = _count(fields, "first_k_dense_replace", 0), fields.integer("moe_layer_freq", 1)
    return [index >= first and index % step == 0 for index in range(layers)]


def _interleaved(fields: Fields, layers: int) -> list[bool]:
    step = fields.integer("interleave_moe_layer_step", 1)
    return [(index + 1) % step == 0 for index in range(layers)]


def _count(fields: Fields, key: str, default: int | None = None) -> int:
    """Return a whole number that may be 0."""
    if key not in fields and default is not None:
        return default
    if key in fields and fields.raw(key) == 0:
        return 0
    return fields.integer(key)


_SPARSE_LAYERS: dict[str, Callable[[Fields, int], list[bool]]] = {
    "all": lambda fields, layers: [True] * layers,
    "sparse_step": _sparse_step,
    "first_dense": _first_dense,
    "interleaved": _interleaved,
}
