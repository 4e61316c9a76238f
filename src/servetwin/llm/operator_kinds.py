"""The kinds of operators that a rank runs: shapes, weights and formats, before any machine is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from servetwin.llm.formats import WeightFormat

Items = Literal[
    "tokens",
    "sequences",
    "decode_tokens",
    "prefill_tokens",
    "prefill_kv_tokens",
    "prefill_context_tokens",
    "chunk_tokens",
    "routed_tokens",
]
"""What an operator is applied to.

``tokens``: those that the rank computes. ``sequences``: those whose logits are computed. ``decode_tokens``: tokens of
requests that decode. ``prefill_tokens``: tokens of prompt chunks. ``prefill_kv_tokens``: these together with the
context before them (MLA expands it again for each chunk); ``prefill_context_tokens``: that context alone.
``chunk_tokens``: this rank's part, where tensor-parallel ranks divide the tokens for the experts. ``routed_tokens``:
tokens of all ranks that share the routed experts.
"""


@dataclass(frozen=True, slots=True)
class Gemm:
    """A product of ``m`` rows with a ``k x n`` matrix of weights, ``m`` being what it is applied to.

    Attributes
    ----------
    name
        As vLLM calls the layer.
    count
        How often it runs in a step.
    n, k
        Outputs and inputs on this rank.
    weights
        Format of the matrix.
    bias
        Whether ``n`` plain elements are added.
    batch
        Independent products of this shape in one kernel (MLA's products per head).
    activation_bytes
        Of one input or output element.
    """

    name: str
    count: int
    applies_to: Items
    n: int
    k: int
    weights: WeightFormat
    bias: bool = False
    batch: int = 1
    activation_bytes: int = 2

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one run reads, scales and bias included."""
        return self.batch * (self.weights.matrix_bytes(self.n, self.k) + self.bias * self.n * self.activation_bytes)

    def flops(self, m: float) -> float:
        """Return the floating-point operations of one run: two per weight and row."""
        return 2.0 * self.batch * m * self.n * self.k

    def bytes_read(self, m: float) -> float:
        """Return the bytes that one run reads."""
        return self.weight_bytes + m * self.batch * self.k * self.activation_bytes

    def bytes_written(self, m: float) -> float:
        """Return the bytes that one run writes."""
        return m * self.batch * self.n * self.activation_bytes


@dataclass(frozen=True, slots=True)
class GroupedGemm:
    """One product of the routed experts: each row goes to ``top_k`` of them.

    Attributes
    ----------
    num_experts
        Experts of the layer; ``local_experts`` of them are on this rank.
    n, k
        Outputs and inputs of one expert on this rank.
    """

    name: str
    count: int
    num_experts: int
    local_experts: int
    top_k: int
    n: int
    k: int
    weights: WeightFormat
    bias: bool = False
    activation_bytes: int = 2
    applies_to: Items = "routed_tokens"

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert's weights."""
        return self.weights.matrix_bytes(self.n, self.k) + self.bias * self.n * self.activation_bytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights of all experts on this rank."""
        return self.local_experts * self.expert_bytes

    def rows(self, tokens: float) -> float:
        """Return the rows that this rank's experts compute for ``tokens`` tokens, evenly routed."""
        return tokens * self.top_k * self.local_experts / self.num_experts

    def active_experts(self, tokens: float) -> float:
        """Return how many of this rank's experts are expected to get a row, each token choosing evenly."""
        return float(self.local_experts * (1.0 - (1.0 - self.top_k / self.num_experts) ** tokens))

    def flops(self, tokens: float) -> float:
        """Return the floating-point operations of one run."""
        return 2.0 * self.rows(tokens) * self.n * self.k

    def bytes_read(self, tokens: float) -> float:
        """Return the bytes that one run reads: the experts that get a row, and the rows."""
        rows_bytes = self.rows(tokens) * self.k * self.activation_bytes
        return self.active_experts(tokens) * self.expert_bytes + rows_bytes

    def bytes_written(self, tokens: float) -> float:
        """Return the bytes that one run writes."""
        return self.rows(tokens) * self.n * self.activation_bytes


@dataclass(frozen=True, slots=True)
class AttentionKernel:
    """Attention of one kind of layer on one rank, in one phase.

    Attributes
    ----------
    kind
        ``mha``, ``gqa``, ``mqa`` or ``mla``.
    phase
        ``"both"``, or one of them: MLA expands keys and values for prompts, and attends in the compressed space (one KV
        head of ``kv_lora_rank + qk_rope_head_dim``) when it decodes.
    num_heads, num_kv_heads, head_dim, v_head_dim
        What the kernel sees on this rank.
    window
        Tokens that a token attends to, itself included; None: all.
    kv_bytes_per_token
        Bytes of cache per token of context and layer on this rank.
    context_ranks
        Ranks that divide the cached tokens, and attend with each other's heads.
    """

    name: str
    count: int
    kind: Literal["mha", "gqa", "mqa", "mla"]
    phase: Literal["both", "prefill", "decode"]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None
    window_kind: Literal["sliding", "chunked"]
    kv_bytes_per_token: int
    activation_bytes: int = 2
    context_ranks: int = 1

    @property
    def flops_per_pair(self) -> int:
        """Operations per pair of a query and a token that it attends to: two products per head."""
        return 2 * self.num_heads * (self.head_dim + self.v_head_dim)

    @property
    def bytes_per_query(self) -> int:
        """Bytes per token of the step: its query and its output."""
        return self.num_heads * (self.head_dim + self.v_head_dim) * self.activation_bytes


@dataclass(frozen=True, slots=True)
class Elementwise:
    """An operator that only moves data: norms, activations, rotary embedding, residuals, routing.

    ``elements_read``, ``elements_written``: per token or sequence, of ``activation_bytes`` each. ``weight_bytes``: read
    once per run.
    """

    name: str
    count: int
    applies_to: Items
    elements_read: int
    elements_written: int
    weight_bytes: int = 0
    activation_bytes: int = 2

    def flops(self, m: float) -> float:
        """Return 0: what it computes is never the limit."""
        return 0.0

    def bytes_read(self, m: float) -> float:
        """Return the bytes that one run reads."""
        return self.weight_bytes + m * self.elements_read * self.activation_bytes

    def bytes_written(self, m: float) -> float:
        """Return the bytes that one run writes."""
        return m * self.elements_written * self.activation_bytes


@dataclass(frozen=True, slots=True)
class Collective:
    """Data that ranks exchange: ``elements`` per item, of ``activation_bytes`` each.

    Attributes
    ----------
    kind
        The operation, of which ``elements`` is the whole tensor as `servetwin.network.base.Collectives` defines it.
    group
        Which ranks: ``tensor``; ``decode_context`` or ``prefill_context``, those that divide a sequence; ``stage``, one
        and the next.
    """

    name: str
    count: int
    kind: Literal["all_reduce", "all_gather", "reduce_scatter", "send"]
    applies_to: Items
    elements: float
    activation_bytes: int = 2
    group: Literal["tensor", "decode_context", "prefill_context", "stage"] = "tensor"


RankOperator = Gemm | GroupedGemm | AttentionKernel | Elementwise | Collective
