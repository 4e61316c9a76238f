"""When each operator of a step ends: LLMServingSim looks at arrivals then."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

ATTENTION = ("layernorm", "qkv_proj", "qk_norm", "rotary_emb", "attention", "o_proj", "all_reduce", "layernorm")
DENSE_BLOCK = (*ATTENTION, "gate_up_proj", "act_fn", "down_proj", "all_reduce")
EXPERTS_BLOCK = (*ATTENTION, "router", "dispatch", "experts", "combine")
"""Parts of a transformer block in the order in which they run."""

TAIL = ("final_layernorm", "lm_head", "sampler")


def operator_ends(parts: Mapping[str, float], layers: int) -> list[int]:
    """Return the ends of a step's operators, whole nanoseconds from its start, ascending.

    Parameters
    ----------
    parts
        A breakdown of the step: all blocks' parts together.
    layers
        Blocks.
    """
    order = EXPERTS_BLOCK if "experts" in parts else DENSE_BLOCK
    block = [parts[name] / (layers * order.count(name)) for name in order if name in parts]
    times = [parts.get("embedding", 0.0), *block * layers, *(parts.get(name, 0.0) for name in TAIL)]
    return [int(end) for end in accumulate(times)]
