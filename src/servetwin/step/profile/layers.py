"""The operators of a decoder-only transformer, as profiles name them (vLLM's attribute names)."""

from __future__ import annotations

from collections.abc import Collection

from servetwin.core.errors import InputError

BLOCK_LAYERS = {
    "layernorm": 2,
    "qkv_proj": 1,
    "qk_norm": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
"""Layers of a transformer block whose time depends on the step's tokens, with how often each stands in a block."""

MLP = ("gate_up_proj", "act_fn", "down_proj")
"""Layers of the MLP, in whose place a mixture of experts has its experts."""

EXPERT = ("router", "expert", "activation")
"""Parts of a block of routed experts that was measured expert by expert."""

ENDS = ("embedding", "final_layernorm")
"""Layers over the step's tokens that the model has once."""

PER_SEQUENCE = ("lm_head", "sampler")
"""Layers over the step's sequences. vLLM V1 computes logits for every sequence, unfinished prefills included."""

DENSE = (*BLOCK_LAYERS, *ENDS)

WITHOUT_MLP = tuple(layer for layer in DENSE if layer not in MLP)
"""Layers over tokens of a mixture of experts, beside its experts."""

TP_STABLE = frozenset({"layernorm", "qk_norm", "final_layernorm", "sampler"})
"""Layers that every rank computes whole: their time does not depend on the tensor-parallel degree."""

OPTIONAL = frozenset({"qk_norm"})
"""Layers that only some families have."""


def check_layers(found: Collection[str], wanted: Collection[str], where: str, *, hint: str = "") -> None:
    """Raise an InputError if one of ``wanted`` that every family has is not in ``found``."""
    missing = [layer for layer in wanted if layer not in found and layer not in OPTIONAL]
    if missing:
        names = ", ".join(missing)
        message = f"no rows for layer {names}; the file has {', '.join(sorted(found)) or 'none'}{hint}"
        raise InputError(message, where=where)
