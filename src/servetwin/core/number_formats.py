"""Number formats: one short name each, the names that PyTorch, Hugging Face and vLLM use for them, and their size."""

from __future__ import annotations

from servetwin.core.errors import unknown_name

BYTES_PER_ELEMENT = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
"""Bytes of one element of weights, activations or KV cache."""

_ALIASES = {
    "float32": "fp32",
    "float": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "float8_e4m3fn": "fp8",
}


def number_format(name: str, *, where: str | None = None) -> str:
    """Return the short name of the format that ``name`` means (``bfloat16`` and ``torch.bfloat16`` are ``bf16``).

    Raises
    ------
    InputError
        If no format has that name.
    """
    key = name.lower().removeprefix("torch.")
    key = _ALIASES.get(key, key)
    if key not in BYTES_PER_ELEMENT:
        raise unknown_name("number format", name, [*BYTES_PER_ELEMENT, *_ALIASES], where=where)
    return key


def bytes_per_element(name: str, *, where: str | None = None) -> int:
    """Return the bytes of one element in the format that ``name`` means."""
    return BYTES_PER_ELEMENT[number_format(name, where=where)]
