"""The operators of a dense transformer: what one rank computes and moves in a step, before any machine is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from servetwin.core.number_formats import bytes_per_element
from servetwin.llm.base import ModelArchitecture

SAMPLER_BYTES_PER_LOGIT = 10
"""The sampler reads each logit in 16 bits, writes it in fp32, and reads that once to find the token."""


class Work(NamedTuple):
    """Floating-point operations, and bytes moved to and from device memory."""

    flops: float
    num_bytes: float


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator: linear in what it is applied to.

    Attributes
    ----------
    name
        As vLLM calls the layer.
    copies
        How often it runs in a step (once per layer, mostly).
    applies_to
        ``"tokens"`` of the step, or ``"sequences"`` (those whose logits are computed).
    flops, num_bytes
        Per token or sequence, one copy.
    weight_bytes
        Read once per copy, however many tokens there are.
    """

    name: str
    copies: int
    applies_to: Literal["tokens", "sequences"]
    flops: float
    num_bytes: float
    weight_bytes: float

    def work(self, count: int) -> Work:
        """Return the work of one copy on ``count`` tokens or sequences."""
        return Work(self.flops * count, self.weight_bytes + self.num_bytes * count)


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """What attention costs on one rank, over all layers.

    Attributes
    ----------
    flops_per_pair
        Per pair of a query token and a token that it attends to (itself too): two products of ``head_dim`` per head.
    bytes_per_kv_token
        Per token of context or of the step: its keys and values.
    bytes_per_query_token
        Per token of the step: its query and its output.
    """

    flops_per_pair: float
    bytes_per_kv_token: float
    bytes_per_query_token: float

    def decode(self, num_decodes: int, kv_tokens: int) -> Work:
        """Return the work of ``num_decodes`` requests with ``kv_tokens`` of context in sum."""
        pairs = kv_tokens + num_decodes
        moved = self.bytes_per_kv_token * pairs + self.bytes_per_query_token * num_decodes
        return Work(self.flops_per_pair * pairs, moved)

    def prefill(self, new_tokens: int, context_tokens: int) -> Work:
        """Return the work of one chunk: ``q k + q (q + 1) / 2`` causal pairs."""
        pairs = new_tokens * context_tokens + new_tokens * (new_tokens + 1) // 2
        moved = self.bytes_per_kv_token * (new_tokens + context_tokens) + self.bytes_per_query_token * new_tokens
        return Work(self.flops_per_pair * pairs, moved)


def attention_work(architecture: ModelArchitecture, ranks: int, dtype: str, kv_cache_dtype: str) -> AttentionWork:
    """Return the attention of one rank."""
    layers, head_dim = architecture.num_hidden_layers, architecture.head_dim
    heads = architecture.num_attention_heads // ranks
    return AttentionWork(
        flops_per_pair=4.0 * layers * heads * head_dim,
        bytes_per_kv_token=float(architecture.kv_bytes_per_token(ranks, kv_cache_dtype)),
        bytes_per_query_token=2.0 * layers * heads * head_dim * bytes_per_element(dtype),
    )


def dense_operators(architecture: ModelArchitecture, ranks: int, dtype: str) -> tuple[Operator, ...]:
    """Return all operators of one rank but attention and collectives, in the order in which they run."""
    return tuple(_operators(architecture, ranks, bytes_per_element(dtype)))


def _operators(model: ModelArchitecture, ranks: int, size: int) -> Iterator[Operator]:
    hidden, layers = model.hidden_size, model.num_hidden_layers
    query = model.num_attention_heads // ranks * model.head_dim
    key_value = model.kv_heads_per_rank(ranks) * model.head_dim
    width = model.intermediate_size // ranks

    def matrix(name: str, rows: int, columns: int, bias: bool) -> Operator:
        weights = (rows + bias) * columns * size
        return Operator(name, layers, "tokens", 2.0 * rows * columns, (rows + columns) * size, weights)

    def elementwise(name: str, copies: int, elements: int, weights: int = 0) -> Operator:
        return Operator(name, copies, "tokens", 0.0, elements * size, weights * size)

    yield elementwise("embedding", 1, 2 * hidden)
    yield elementwise("layernorm", 2 * layers, 4 * hidden, hidden)  # reads and writes the residual stream too
    yield matrix("qkv_proj", hidden, query + 2 * key_value, model.qkv_bias)
    if model.qk_norm:
        yield elementwise("qk_norm", layers, 2 * (query + key_value), 2 * model.head_dim)
    yield elementwise("rotary_emb", layers, 2 * (query + key_value))
    yield matrix("o_proj", query, hidden, model.o_bias)
    yield matrix("gate_up_proj", hidden, 2 * width, model.mlp_bias)
    yield elementwise("act_fn", layers, 3 * width)
    yield matrix("down_proj", width, hidden, model.mlp_bias)
    yield elementwise("final_layernorm", 1, 4 * hidden, hidden)
    vocabulary = model.padded_vocab_per_rank(ranks)
    head_bytes = (hidden + vocabulary) * size
    yield Operator("lm_head", 1, "sequences", 2.0 * hidden * vocabulary, head_bytes, hidden * vocabulary * size)
    yield Operator("sampler", 1, "sequences", 0.0, model.vocab_size * SAMPLER_BYTES_PER_LOGIT, 0.0)
