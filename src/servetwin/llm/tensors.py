"""The weight tensors of a decoder layer: their shapes, and how ranks divide them."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Literal, NamedTuple

from servetwin.llm.parts import Attention, LatentAttention, Layer, MixtureOfExperts, Mlp

Split = Literal["rows", "columns", "kv_heads", "vocabulary"]
"""What tensor parallelism divides: outputs, inputs, whole KV heads (replicated where there are more ranks than heads),
or the vocabulary (padded first)."""


class Tensor(NamedTuple):
    """One weight tensor, ``(outputs, inputs)`` as Hugging Face stores it.

    ``copies``: how often it stands in the model. ``split``: what tensor parallelism divides (``None``: every rank holds
    it whole). ``linear``: the group of matrices to which it belongs for quantisation, empty where it is not quantised.
    ``experts``: the routed experts, which are the first dimension of its shape; 0: none. ``top_k``: those that a token
    visits.
    """

    name: str
    shape: tuple[int, ...]
    copies: int
    split: Split | None
    linear: str = ""
    experts: int = 0
    top_k: int = 0

    @property
    def elements(self) -> int:
        """Elements of one copy."""
        return prod(self.shape)

    @property
    def active_elements(self) -> int:
        """Elements of one copy that one token meets."""
        return self.elements // self.experts * self.top_k if self.experts else self.elements


def layer_tensors(layer: Layer, hidden: int, copies: int) -> Iterator[Tensor]:
    """Yield the tensors of ``copies`` equal layers."""
    for tensor in _tensors(layer, hidden, copies):
        yield tensor._replace(linear="") if tensor.linear in layer.unquantized else tensor


def _tensors(layer: Layer, hidden: int, copies: int) -> Iterator[Tensor]:
    attention = layer.attention
    if isinstance(attention, LatentAttention):
        yield from _latent_attention(attention, hidden, copies)
    else:
        yield from _attention(attention, hidden, copies)
    if isinstance(layer.mlp, MixtureOfExperts):
        yield from _experts(layer.mlp, hidden, copies)
    else:
        yield from _mlp(layer.mlp, hidden, copies)
    yield Tensor("layernorm", (hidden,), layer.norms * (1 + layer.norm_bias) * copies, None)


def _attention(attention: Attention, hidden: int, copies: int) -> Iterator[Tensor]:
    query = attention.num_heads * attention.head_dim
    key_value = attention.num_kv_heads * attention.head_dim
    yield Tensor("q_proj", (query, hidden), copies, "rows", "qkv_proj")
    yield Tensor("kv_proj", (2 * key_value, hidden), copies, "kv_heads", "qkv_proj")
    yield Tensor("o_proj", (hidden, query), copies, "columns", "o_proj")
    if attention.qkv_bias:
        yield Tensor("q_proj.bias", (query,), copies, "rows")
        yield Tensor("kv_proj.bias", (2 * key_value,), copies, "kv_heads")
    if attention.o_bias:
        yield Tensor("o_proj.bias", (hidden,), copies, None)
    if attention.qk_norm == "head":
        yield Tensor("qk_norm", (2, attention.head_dim), copies, None)
    if attention.qk_norm == "projection":
        yield Tensor("q_norm", (query,), copies, "rows")
        yield Tensor("k_norm", (key_value,), copies, "kv_heads")
    if attention.sinks:
        yield Tensor("sinks", (attention.num_heads,), copies, "rows")


def _latent_attention(attention: LatentAttention, hidden: int, copies: int) -> Iterator[Tensor]:
    query = attention.num_heads * attention.head_dim
    value = attention.num_heads * attention.v_head_dim
    rank = attention.q_lora_rank
    if rank is None:
        yield Tensor("q_proj", (query, hidden), copies, "rows", "q_b_proj")
    else:
        yield Tensor("q_a_proj", (rank, hidden), copies, None, "q_a_proj")
        yield Tensor("q_a_layernorm", (rank,), copies, None)
        yield Tensor("q_b_proj", (query, rank), copies, "rows", "q_b_proj")
    yield Tensor("kv_a_proj", (attention.latent_dim, hidden), copies, None, "kv_a_proj")
    yield Tensor("kv_a_layernorm", (attention.kv_lora_rank,), copies, None)
    expanded = attention.num_heads * attention.qk_nope_head_dim + value
    yield Tensor("kv_b_proj", (expanded, attention.kv_lora_rank), copies, "rows", "kv_b_proj")
    yield Tensor("o_proj", (hidden, value), copies, "columns", "o_proj")
    if attention.qkv_bias:
        yield Tensor("kv_a_proj.bias", (attention.latent_dim + (rank or 0),), copies, None)
    if attention.o_bias:
        yield Tensor("o_proj.bias", (hidden,), copies, None)


def _mlp(mlp: Mlp, hidden: int, copies: int) -> Iterator[Tensor]:
    width = mlp.intermediate_size
    yield Tensor("gate_up_proj", (2 * width, hidden), copies, "rows", "mlp")
    yield Tensor("down_proj", (hidden, width), copies, "columns", "mlp")
    if mlp.bias:
        yield Tensor("gate_up_proj.bias", (2 * width,), copies, "rows")
        yield Tensor("down_proj.bias", (hidden,), copies, None)


def _experts(moe: MixtureOfExperts, hidden: int, copies: int) -> Iterator[Tensor]:
    n, k, width = moe.num_experts, moe.top_k, moe.intermediate_size
    yield Tensor("router", (n, hidden), copies, None)
    if moe.router_bias:
        yield Tensor("router.bias", (n,), copies, None)
    yield Tensor("experts.gate_up_proj", (n, 2 * width, hidden), copies, "rows", "experts", n, k)
    yield Tensor("experts.down_proj", (n, hidden, width), copies, "columns", "experts", n, k)
    if moe.bias:
        yield Tensor("experts.gate_up_proj.bias", (n, 2 * width), copies, "rows", "", n, k)
        yield Tensor("experts.down_proj.bias", (n, hidden), copies, None, "", n, k)
    shared = moe.shared_intermediate_size
    if shared:
        yield Tensor("shared_experts.gate_up_proj", (2 * shared, hidden), copies, "rows", "shared_experts")
        yield Tensor("shared_experts.down_proj", (hidden, shared), copies, "columns", "shared_experts")
    if moe.shared_gate:
        yield Tensor("shared_experts.gate", (1, hidden), copies, None)
