"""The parts of a decoder layer: attention, MLP or experts; plain sizes, no arithmetic but what follows from a part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

QkNorm = Literal["none", "head", "projection", "parameterless"]
"""Norm of queries and keys: none, over each head (one weight of ``head_dim`` each), over the whole projection of a
token (weights as wide as it), or without weights."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention with a key and a value per KV head: multi-head, grouped-query, multi-query.

    Attributes
    ----------
    head_dim
        Size of one query, key and value.
    window
        Tokens that a token attends to, itself included; None: all before it.
    window_kind
        ``"sliding"``, or ``"chunked"`` (Llama 4): tokens attend within aligned chunks of ``window`` tokens.
    qkv_bias, o_bias
        Whether the projections add a bias.
    sinks
        Whether each head has a learned sink (gpt-oss): one weight per head.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None = None
    window_kind: Literal["sliding", "chunked"] = "sliding"
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: QkNorm = "none"
    sinks: bool = False

    @property
    def v_head_dim(self) -> int:
        """Size of one value."""
        return self.head_dim

    @property
    def kind(self) -> Literal["mha", "gqa", "mqa"]:
        """What the sharing of KV heads is called."""
        if self.num_kv_heads == self.num_heads:
            return "mha"
        return "mqa" if self.num_kv_heads == 1 else "gqa"

    def kv_heads_per_rank(self, ranks: int) -> int:
        """Return the KV heads on one of ``ranks`` ranks: replicated, at least one each."""
        return max(1, self.num_kv_heads // ranks)

    def kv_elements_per_token(self, ranks: int = 1) -> int:
        """Return the elements of KV cache that one token takes in one layer on one rank."""
        return self.kv_heads_per_rank(ranks) * (self.head_dim + self.v_head_dim)


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (MLA): the cache holds one compressed vector per token, shared by all heads.

    Attributes
    ----------
    q_lora_rank
        Rank of the compressed query; None: queries are projected at once (DeepSeek-V2-Lite).
    kv_lora_rank
        Size of the compressed keys and values.
    qk_nope_head_dim, qk_rope_head_dim, v_head_dim
        A query's part without and with position, and a value, per head. The position part of the key is shared.

    Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1.
    """

    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    window: int | None = None
    window_kind: Literal["sliding", "chunked"] = "sliding"
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: QkNorm = "none"
    sinks: bool = False

    @property
    def kind(self) -> Literal["mla"]:
        """The name of this attention."""
        return "mla"

    @property
    def num_kv_heads(self) -> int:
        """Heads that have keys of their own once the cache is expanded: all of them."""
        return self.num_heads

    @property
    def head_dim(self) -> int:
        """Size of one query, both parts."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_dim(self) -> int:
        """Elements of the cache per token and layer."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    def kv_heads_per_rank(self, ranks: int) -> int:
        """Return 1: each rank caches the whole compressed vector."""
        return 1

    def kv_elements_per_token(self, ranks: int = 1) -> int:
        """Return the elements of KV cache that one token takes in one layer, the same on every rank."""
        return self.latent_dim


@dataclass(frozen=True, slots=True)
class Mlp:
    """A gated MLP: ``down(act(gate(x)) * up(x))``."""

    intermediate_size: int
    bias: bool = False


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """Routed experts, each a gated MLP, and what runs beside them for every token.

    Attributes
    ----------
    num_experts, top_k
        Routed experts of the layer, and those that a token visits.
    intermediate_size
        Width of one routed expert.
    shared_intermediate_size
        Width of all shared experts together, which run as one MLP; 0: none.
    bias
        Whether the experts' projections add a bias (gpt-oss).
    router_bias
        Whether the router has one number per expert besides its matrix (a bias, or a correction of its scores).
    shared_gate
        Whether the shared experts' output is scaled by a learned gate of the hidden size (Qwen2-MoE).
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    shared_intermediate_size: int = 0
    bias: bool = False
    router_bias: bool = False
    shared_gate: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer.

    Attributes
    ----------
    norms
        Norms over the hidden state (2; 4 in Gemma, which also norms what attention and MLP return).
    norm_bias
        Whether these have a bias beside the weight (Phi-MoE).
    unquantized
        Names of its tensors' groups that a quantised model keeps in its plain format.
    """

    attention: Attention | LatentAttention
    mlp: Mlp | MixtureOfExperts
    norms: int = 2
    norm_bias: bool = False
    unquantized: frozenset[str] = frozenset()


class LayerKind(NamedTuple):
    """A layer, and how many equal ones the model (or a pipeline stage) has."""

    layer: Layer
    copies: int
