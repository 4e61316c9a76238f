"""Reading a Hugging Face ``config.json`` strictly: what is missing or contradicts itself is an error, not a guess."""

from __future__ import annotations

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.fields import Fields
from servetwin.core.number_formats import number_format
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.families import EXPERT_KEYS, FAMILIES, Bias, Family
from servetwin.llm.parts import Attention, Layer, Mlp


def read_config(data: object, *, name: str, where: str, source: str = "") -> ModelArchitecture:
    """Return the architecture that a ``config.json`` describes.

    Parameters
    ----------
    data
        The parsed file.
    name
        What the model is called.
    where, source
        The place for messages, and where the figures come from.

    Raises
    ------
    InputError
        If a key is missing or has no sensible value, if sizes contradict each other, or if the model needs what is not
        modelled: an unknown ``model_type``, a mixture of experts, sliding windows, quantised weights.
    """
    fields = Fields(data, where)
    family = _family(fields)
    heads = fields.integer("num_attention_heads")
    hidden = fields.integer("hidden_size")
    attention = Attention(
        num_heads=heads,
        num_kv_heads=_key_value_heads(fields, family, heads),
        head_dim=_head_dim(fields, hidden, heads),
        qkv_bias=_bias(family.qkv_bias, fields, "attention_bias"),
        o_bias=_bias(family.o_bias, fields, "attention_bias"),
        qk_norm="head" if family.qk_norm else "none",
    )
    mlp = Mlp(fields.integer("intermediate_size"), _bias(family.mlp_bias, fields, "mlp_bias"))
    architecture = ModelArchitecture(
        name=name,
        model_type=fields.text("model_type"),
        hidden_size=hidden,
        layer_sequence=(Layer(attention, mlp),) * fields.integer("num_hidden_layers"),
        vocab_size=fields.integer("vocab_size"),
        max_position_embeddings=fields.integer("max_position_embeddings"),
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        dtype=_dtype(fields),
        source=source or where,
    )
    _refuse_sliding_window(fields)
    return architecture


def _family(fields: Fields) -> Family:
    model_type = fields.text("model_type")
    experts = [key for key in EXPERT_KEYS if key in fields]
    if experts:
        raise fields.error(
            experts[0],
            f"names a mixture of experts ({model_type}); only dense models are modelled yet: "
            + ", ".join(sorted(FAMILIES)),
        )
    if "quantization_config" in fields:
        raise fields.error(
            "quantization_config",
            "asks for quantised weights, which are not modelled yet; remove it "
            "to simulate the model in its torch_dtype",
        )
    if model_type not in FAMILIES:
        raise unknown_name("model_type", model_type, FAMILIES, where=fields.where)
    return FAMILIES[model_type]


def _key_value_heads(fields: Fields, family: Family, heads: int) -> int:
    if family.key_value_heads_default == "attention_heads":
        kv_heads = fields.integer("num_key_value_heads", heads)
    else:
        kv_heads = fields.integer("num_key_value_heads")
    if heads % kv_heads:
        raise fields.error("num_attention_heads", f"({heads}) must be a multiple of num_key_value_heads ({kv_heads})")
    return kv_heads


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    if "head_dim" in fields:
        return fields.integer("head_dim")
    if hidden % heads:
        raise fields.error(
            "hidden_size", f"({hidden}) is not divisible by num_attention_heads ({heads}), and head_dim is not given"
        )
    return hidden // heads


def _bias(rule: Bias, fields: Fields, key: str) -> bool:
    return rule == "always" or (rule == "config" and fields.flag(key, False))


def _dtype(fields: Fields) -> str:
    key = "dtype" if "dtype" in fields else "torch_dtype"
    if key not in fields:
        raise InputError(
            'torch_dtype is missing: add the format of the weights, for example "torch_dtype": "bfloat16"',
            where=fields.where,
        )
    return number_format(fields.text(key), where=f"{fields.where}: {key}")


def _refuse_sliding_window(fields: Fields) -> None:
    if "sliding_window" not in fields or not fields.flag("use_sliding_window", True):
        return
    window = fields.integer("sliding_window")
    if window < fields.integer("max_position_embeddings"):
        raise fields.error(
            "sliding_window",
            f"of {window} tokens: windowed attention is not modelled yet; set it to null to simulate full attention",
        )
