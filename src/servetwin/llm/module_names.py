"""Which groups of matrices a list of module names means, layer by layer, by the names in published checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from servetwin.core.errors import InputError

MODULES = {
    "qkv_proj": ("self_attn.q_proj", "self_attn.qkv_proj"),
    "o_proj": ("self_attn.o_proj",),
    "q_a_proj": ("self_attn.q_a_proj",),
    "q_b_proj": ("self_attn.q_b_proj", "self_attn.q_proj"),
    "kv_a_proj": ("self_attn.kv_a_proj_with_mqa",),
    "kv_b_proj": ("self_attn.kv_b_proj",),
    "mlp": ("mlp.gate_proj", "mlp.gate_up_proj", "feed_forward.gate_proj"),
    "experts": ("mlp.experts.0.gate_proj", "block_sparse_moe.experts.0.w1", "feed_forward.experts.gate_up_proj"),
    "shared_experts": (
        "mlp.shared_experts.gate_proj",
        "mlp.shared_expert.gate_proj",
        "feed_forward.shared_expert.gate_proj",
    ),
}
"""Module names within a layer, of the groups of ``Tensor.linear``."""

PREFIXES = ("model.layers", "language_model.model.layers", "model.language_model.layers")

_INDEX = re.compile(r"layers\.(\d+)(?=[.*]|$)")


class PlainModules:
    """Module names, globs and regular expressions (after ``re:``), asked which groups of a layer they mean.

    Raises
    ------
    InputError
        If a regular expression is not valid.
    """

    def __init__(self, patterns: Iterable[str], where: str) -> None:
        self._everywhere: list[re.Pattern[str] | str] = []
        self._of_layer: dict[int, list[re.Pattern[str] | str]] = {}
        for pattern in patterns:
            index = _INDEX.search(pattern)
            fixed = index is not None and not pattern.startswith("re:")
            place = self._of_layer.setdefault(int(index.group(1)), []) if fixed and index else self._everywhere
            place.append(_compiled(pattern, where))

    def groups(self, layer: int) -> frozenset[str]:
        """Return the groups of layer number ``layer``, from 0, that stay plain."""
        patterns = [*self._everywhere, *self._of_layer.get(layer, ())]
        return frozenset(
            group
            for group, modules in MODULES.items()
            if patterns and any(_matches(patterns, layer, module) for module in modules)
        )


def _compiled(pattern: str, where: str) -> re.Pattern[str] | str:
    if not pattern.startswith("re:"):
        return pattern
    try:
        return re.compile(pattern[3:])
    except re.error as error:
        raise InputError(f"{pattern!r} is not a valid regular expression: {error}", where=where) from None


def _matches(patterns: list[re.Pattern[str] | str], layer: int, module: str) -> bool:
    names = [f"{prefix}.{layer}.{module}" for prefix in PREFIXES]
    return any(_matches_one(pattern, name) for pattern in patterns for name in names)


def _matches_one(pattern: re.Pattern[str] | str, name: str) -> bool:
    """Return whether a pattern means a module; a plain text means the module of that name and all below it."""
    if isinstance(pattern, re.Pattern):
        return pattern.match(name) is not None
    if "*" in pattern or "?" in pattern:
        return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
    return f".{pattern}." in f".{name}."
