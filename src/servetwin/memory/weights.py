"""The weights of a model by layer and operator, as one rank holds them: what a placement moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import prod

from servetwin.core.number_formats import bytes_per_element
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.parallel import Parallelism
from servetwin.llm.parts import MixtureOfExperts
from servetwin.llm.tensors import Tensor, layer_tensors

IN_LAYERS = (
    "layernorm",
    "qkv_proj",
    "o_proj",
    "gate_up_proj",
    "down_proj",
    "router",
    "experts",
    "shared_experts",
)
"""Operators of a layer that have weights; ``qkv_proj`` stands for all that makes queries, keys and values."""

AT_ENDS = ("embedding", "final_layernorm", "lm_head")

OPERATORS = (*IN_LAYERS, *AT_ENDS)

_OF_PREFIX = {"experts": "experts", "shared_experts": "shared_experts"}


def operator_of(name: str) -> str:
    """Return the operator that a tensor, or a part of a step's time, belongs to; ``attention`` if it has no weights."""
    head, _, _ = name.partition(".")
    if head in OPERATORS:
        return head
    if head in ("act_fn", "activation"):
        return "gate_up_proj"
    return _TENSORS.get(head, "attention")


_TENSORS = dict.fromkeys(
    (
        "q_proj",
        "kv_proj",
        "q_a_proj",
        "q_b_proj",
        "kv_a_proj",
        "kv_b_proj",
        "q_a_layernorm",
        "kv_a_layernorm",
        "q_norm",
        "k_norm",
        "qk_norm",
        "sinks",
    ),
    "qkv_proj",
)


def tensor_bytes(architecture: ModelArchitecture, tensor: Tensor, ranks: Parallelism, dtype: str | None) -> int:
    """Return the bytes of a tensor's part on one rank, all copies."""
    shape = architecture.rank_shape(tensor, ranks)
    elements = prod(shape) * tensor.copies
    if dtype is not None:
        return elements * bytes_per_element(dtype)
    form = architecture.weight_format(tensor.linear)
    if form.is_plain or len(shape) < 2:
        return elements * form.bits // 8
    matrices = shape[0] if tensor.experts else 1
    return matrices * form.matrix_bytes(shape[-2], shape[-1]) * tensor.copies


@lru_cache(maxsize=256)
def layer_weight_bytes(
    architecture: ModelArchitecture, layer: int, ranks: Parallelism, dtype: str | None = None
) -> Mapping[str, int]:
    """Return the bytes of one layer's weights on one rank, by operator (see `IN_LAYERS`)."""
    tensors = layer_tensors(architecture.layer_sequence[layer], architecture.hidden_size, 1)
    return _by_operator(architecture, tensors, ranks, dtype)


def end_weight_bytes(
    architecture: ModelArchitecture, ranks: Parallelism, dtype: str | None = None
) -> Mapping[str, int]:
    """Return the bytes of the stage's embedding, final norm and LM head on one rank.

    A tied LM head is the embedding: it counts here once, as the embedding.
    """
    tensors = (tensor for tensor in architecture.tensors(ranks) if operator_of(tensor.name) in AT_ENDS)
    return _by_operator(architecture, tensors, ranks, dtype)


def _by_operator(
    architecture: ModelArchitecture, tensors: Iterable[Tensor], ranks: Parallelism, dtype: str | None
) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in tensors:
        name = operator_of(tensor.name)
        found[name] = found.get(name, 0) + tensor_bytes(architecture, tensor, ranks, dtype)
    return found


def local_experts(architecture: ModelArchitecture, ranks: Parallelism) -> int:
    """Return the routed experts of one layer that one rank holds (whole, or a slice of each); 0 without experts."""
    mlp = next((layer.mlp for layer, _ in architecture.layers if isinstance(layer.mlp, MixtureOfExperts)), None)
    return 0 if mlp is None else -(-mlp.num_experts // ranks.expert)
