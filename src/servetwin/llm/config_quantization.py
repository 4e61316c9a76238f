"""Reading ``quantization_config``: which format the matrices have, which stay plain, and the format of the KV cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from servetwin.core.errors import unknown_name
from servetwin.core.fields import Fields
from servetwin.llm.formats import QUANTIZED_FORMATS, Quantization, WeightFormat, with_group


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """What a config says of quantisation.

    ``plain``: names, globs or (after ``re:``) regular expressions of modules that are not quantised.
    """

    quantization: Quantization | None = None
    plain: tuple[str, ...] = ()
    kv_cache_dtype: str | None = None


def read_quantization(fields: Fields) -> QuantizationConfig:
    """Return what ``quantization_config`` says, from the config that holds it.

    Raises
    ------
    InputError
        For a method or a scheme that is not known.
    """
    if "quantization_config" not in fields:
        return QuantizationConfig()
    config = fields.child("quantization_config")
    method = "modelopt" if "quant_algo" in config else config.text("quant_method")
    if method not in METHODS:
        raise unknown_name("quant_method", method, METHODS, where=config.where)
    quantized = METHODS[method](config)
    plain: tuple[str, ...] = ()
    for key in ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"):
        plain += config.texts(key)
    return QuantizationConfig(quantized, plain, _kv_cache_dtype(config))


def _fp8(config: Fields) -> Quantization:
    if "weight_block_size" in config:
        block = config.raw("weight_block_size")
        if not isinstance(block, list) or len(block) != 2 or not all(_is_size(size) for size in block):
            raise config.error("weight_block_size", f"must be two whole numbers of at least 1, got {block!r}")
        return Quantization("fp8", replace(QUANTIZED_FORMATS["fp8-block"], block=(block[0], block[1])))
    return Quantization("fp8", QUANTIZED_FORMATS["fp8"])


def _fbgemm_fp8(config: Fields) -> Quantization:
    return Quantization("fbgemm_fp8", QUANTIZED_FORMATS["fp8-channel"])


def _mxfp4(config: Fields) -> Quantization:
    return Quantization("mxfp4", QUANTIZED_FORMATS["mxfp4"], experts_only=True)


def _awq(config: Fields) -> Quantization:
    return Quantization("awq", with_group("awq", _group_size(config), bits=_integer_bits(config, "bits", (4,))))


def _gptq(config: Fields) -> Quantization:
    form = with_group("gptq", _group_size(config), bits=_integer_bits(config, "bits", (4, 8)))
    return Quantization("gptq", form, lm_head=config.flag("lm_head", False))


def _modelopt(config: Fields) -> Quantization:
    algorithm = config.text("quant_algo")
    formats = {"FP8": "fp8", "NVFP4": "nvfp4", "W4A16_AWQ": "awq", "MXFP4": "mxfp4"}
    if algorithm not in formats:
        raise unknown_name("quant_algo", algorithm, formats, where=config.where)
    return Quantization("modelopt", QUANTIZED_FORMATS[formats[algorithm]])


def _compressed_tensors(config: Fields) -> Quantization:
    groups = config.child("config_groups")
    names = list(groups)
    if not names:
        raise config.error("config_groups", "is missing or empty: it says how weights are stored")
    forms = {_group_format(groups.child(name)) for name in names}
    if len(forms) > 1:
        raise config.error("config_groups", "gives groups of modules different formats, which is not modelled")
    return Quantization("compressed-tensors", forms.pop())


def _group_format(group: Fields) -> WeightFormat:
    weights = group.child("weights")
    computed = "input_activations" in group
    bits = _integer_bits(weights, "num_bits", (4, 8))
    if weights.text("type", "int") == "float":
        if bits == 4:
            scheme = "nvfp4" if weights.integer("group_size", 16) == 16 else "mxfp4"
            form = QUANTIZED_FORMATS[scheme]
            return form if computed else replace(form, activations=None)
        return _float8(weights, computed)
    if bits == 8 and computed:
        return QUANTIZED_FORMATS["int8"]
    form = with_group("awq" if bits == 4 else "int8-weight-only", _group_size(weights), bits=bits)
    return replace(form, zero_bits=0) if weights.flag("symmetric", True) else replace(form, zero_bits=bits)


def _float8(weights: Fields, computed: bool) -> WeightFormat:
    strategy = weights.text("strategy", "tensor")
    schemes = {"tensor": "fp8", "channel": "fp8-channel", "block": "fp8-block"}
    if strategy not in schemes:
        raise unknown_name("strategy", strategy, schemes, where=weights.where)
    form = QUANTIZED_FORMATS[schemes[strategy]]
    return form if computed else replace(form, activations=None)


def _group_size(config: Fields) -> int:
    size = config.raw("group_size") if "group_size" in config else -1
    if size != -1 and not _is_size(size):
        raise config.error("group_size", f"must be a whole number of at least 1, or -1 for one group, got {size!r}")
    return int(str(size))


def _integer_bits(config: Fields, key: str, allowed: tuple[int, ...]) -> int:
    bits = config.integer(key)
    if bits not in allowed:
        raise config.error(key, f"is {bits}; formats that are known have {' or '.join(map(str, allowed))} bits")
    return bits


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**20


def _kv_cache_dtype(config: Fields) -> str | None:
    for key in ("kv_cache_quant_algo", "kv_cache_scheme"):
        if key not in config:
            continue
        value = config.raw(key)
        if value == "FP8" or (isinstance(value, dict) and (value.get("num_bits"), value.get("type")) == (8, "float")):
            return "fp8"
        raise config.error(key, f"is {value!r}; the KV cache's format can be fp8 or that of the activations")
    return None


METHODS: dict[str, Callable[[Fields], Quantization]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm_fp8,
    "awq": _awq,
    "gptq": _gptq,
    "mxfp4": _mxfp4,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "compressed-tensors": _compressed_tensors,
}
"""Readers by ``quant_method``."""
