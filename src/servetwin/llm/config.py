"""Reading a Hugging Face ``config.json`` strictly: what is missing or contradicts itself is an error, not a guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.fields import Fields
from servetwin.core.number_formats import number_format
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.config_layers import read_attention, read_mlps, read_windows
from servetwin.llm.config_quantization import QuantizationConfig, read_quantization
from servetwin.llm.families import EXPERT_KEYS, FAMILIES, UNMODELLED_KEYS, WRAPPERS, Family
from servetwin.llm.module_names import PlainModules
from servetwin.llm.parts import Layer

_OUTER_KEYS = ("quantization_config", "torch_dtype", "dtype", "tie_word_embeddings")


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
        described: an unknown ``model_type``, kind of layer or way of quantisation.
    """
    fields, family = _text_model(data, where)
    quantized = read_quantization(fields)
    return ModelArchitecture(
        name=name,
        model_type=fields.text("model_type"),
        hidden_size=fields.integer("hidden_size"),
        vocab_size=fields.integer("vocab_size"),
        max_position_embeddings=fields.integer("max_position_embeddings"),
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        layer_sequence=_layers(fields, family, quantized),
        dtype=_dtype(fields),
        quantization=quantized.quantization,
        published_kv_cache_dtype=quantized.kv_cache_dtype,
        final_norm_bias=family.norm_bias,
        lm_head_bias=fields.flag("lm_head_bias", False),
        source=source or where,
    )


def _text_model(data: object, where: str) -> tuple[Fields, Family]:
    """Return the keys of the text model, with its family's defaults for those that are absent."""
    fields = Fields(data, where)
    given = set(fields)
    model_type = fields.text("model_type")
    values: dict[str, object] = {key: fields.raw(key) for key in fields if key in fields}
    if model_type in WRAPPERS:
        text = fields.child("text_config")
        if "text_config" not in fields:
            raise fields.error("text_config", f"is missing: a {model_type} config holds its text model there")
        outer = {key: values[key] for key in _OUTER_KEYS if key in values}
        values = {**outer, **{key: text.raw(key) for key in text if key in text}}
        model_type = text.text("model_type", WRAPPERS[model_type])
        where, given = text.where, set(text)
        values["model_type"] = model_type
    if model_type not in FAMILIES:
        raise _unknown_family(model_type, values, where)
    family = FAMILIES[model_type]
    _check_experts(model_type, family, values, where)
    return Fields(_with_defaults(family, values, given), where), family


def _with_defaults(family: Family, values: dict[str, object], given: set[str]) -> dict[str, object]:
    defaults = {key: value for key, value in family.defaults.items() if key not in given}
    if "dtype" in values:
        defaults.pop("torch_dtype", None)
    return {**defaults, **values}


def _unknown_family(model_type: str, values: Mapping[str, object], where: str) -> InputError:
    missing = sorted({what for key, what in UNMODELLED_KEYS.items() if values.get(key)})
    error = unknown_name("model_type", model_type, [*FAMILIES, *WRAPPERS], where=where)
    asks = f"; the config also asks for {', '.join(missing)}" if missing else ""
    return InputError(f"{error}. What is missing is a description of this family's tensors{asks}")


def _check_experts(model_type: str, family: Family, values: Mapping[str, object], where: str) -> None:
    if family.experts is not None:
        return
    for key in EXPERT_KEYS:
        if values.get(key):
            sparse = ", ".join(sorted(name for name, other in FAMILIES.items() if other.experts is not None))
            raise InputError(
                f"{key} names a mixture of experts, but {model_type} models have none; those that have: {sparse}",
                where=where,
            )


def _layers(fields: Fields, family: Family, quantized: QuantizationConfig) -> tuple[Layer, ...]:
    number = fields.integer("num_hidden_layers")
    if number > MOST_LAYERS:
        raise fields.error("num_hidden_layers", f"is {number}; more than {MOST_LAYERS} layers are not believed")
    attention = read_attention(fields, family)
    mlps = read_mlps(fields, family, number)
    windows = read_windows(fields, family, number)
    plain = PlainModules(quantized.plain, f"{fields.where}: quantization_config")
    kinds: dict[Layer, Layer] = {}
    layers = []
    for index, (mlp, window) in enumerate(zip(mlps, windows, strict=True)):
        ours = replace(attention, window=window.tokens, window_kind=window.kind)
        layer = Layer(ours, mlp, family.norms, family.norm_bias, plain.groups(index))
        layers.append(kinds.setdefault(layer, layer))
    return tuple(layers)


MOST_LAYERS = 10_000
"""Beyond this, a number of layers is a mistake."""


def _dtype(fields: Fields) -> str:
    key = "dtype" if "dtype" in fields else "torch_dtype"
    if key not in fields:
        raise InputError(
            'torch_dtype is missing: add the format of the weights, for example "torch_dtype": "bfloat16"',
            where=fields.where,
        )
    return number_format(fields.text(key), where=f"{fields.where}: {key}")
