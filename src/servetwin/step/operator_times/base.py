"""The contract of operator times from outside, and the names of operators."""

from __future__ import annotations

from typing import Protocol

from servetwin.llm.operators import AttentionKernel, Elementwise, Gemm, GroupedGemm

OperatorOverRows = Gemm | GroupedGemm | Elementwise

ATTENTION = ("attention_decode", "attention_prefill")
"""Attention has two operators, one per phase, whatever the model's kinds of layers."""

OPERATORS = frozenset(
    {
        *ATTENTION, "embedding", "layernorm", "qkv_proj", "qk_norm", "rotary_emb", "o_proj", "gate_up_proj", "act_fn",
        "down_proj", "final_layernorm", "lm_head", "router", "top_k", "experts.gate_up_proj", "experts.act_fn",
        "experts.down_proj", "experts.sum", "shared_experts.gate_up_proj", "shared_experts.act_fn",
        "shared_experts.down_proj", "shared_experts.gate", "q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj",
        "kv_a_layernorm", "kv_b_proj", "q_absorb", "v_expand",
    }
)  # fmt: skip
"""Operators that models have, by vLLM's names."""


class OperatorTimes(Protocol):
    """Times of single runs of operators, in nanoseconds; None for an operator that is not known."""

    notices: list[str]

    def rows_ns(self, op: OperatorOverRows, rows: int) -> float | None:
        """Return the time of one run over so many rows (tokens, or sequences)."""
        ...

    def decode_ns(self, op: AttentionKernel, decodes: int, kv_tokens: int) -> float | None:
        """Return the time of one layer's attention of decodes with so many tokens of context together."""
        ...

    def prefill_ns(self, op: AttentionKernel, new: int, context: int) -> float | None:
        """Return the time of one layer's attention of a chunk of ``new`` tokens on ``context``."""
        ...
