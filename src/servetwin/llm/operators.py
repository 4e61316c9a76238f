"""The operators that one rank runs in a step, before any machine is known.

`operators` lists them per kind of layer, with counts. Each knows its FLOPs and the bytes that it reads and writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from servetwin.core.number_formats import bytes_per_element
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.formats import WeightFormat
from servetwin.llm.operator_kinds import (
    AttentionKernel,
    Collective,
    Elementwise,
    Gemm,
    GroupedGemm,
    Items,
    RankOperator,
)
from servetwin.llm.parallel import ONE_RANK, Parallelism
from servetwin.llm.parts import Attention, LatentAttention, MixtureOfExperts, Mlp

__all__ = [
    "AttentionKernel",
    "Collective",
    "Elementwise",
    "Gemm",
    "GroupedGemm",
    "Items",
    "RankOperator",
    "operators",
]


def operators(
    model: ModelArchitecture,
    ranks: Parallelism = ONE_RANK,
    *,
    kv_cache_dtype: str | None = None,
) -> tuple[RankOperator, ...]:
    """Return all operators of one rank, in the order in which a layer runs them, kind of layer by kind of layer.

    Parameters
    ----------
    model
        The architecture; its quantisation says each matrix's format.
    ranks
        How the model is divided, and which pipeline stage this rank belongs to.
    kv_cache_dtype
        Format of the KV cache; None: as published.
    """
    every = _RankOperators(model, ranks, kv_cache_dtype or model.kv_cache_dtype)
    return tuple(op for op in every if ranks.holds(op.name))


class _RankOperators:
    """Walks through a stage's layers; holds what all of them share."""

    def __init__(self, model: ModelArchitecture, ranks: Parallelism, kv_cache_dtype: str) -> None:
        self.model = model
        self.ranks = ranks
        self.tp = ranks.tensor
        self.hidden = model.hidden_size
        self.size = bytes_per_element(model.dtype)
        self.kv_size = bytes_per_element(kv_cache_dtype)
        self.unquantized: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[RankOperator]:
        if self.ranks.is_first_stage:
            yield self.moves("embedding", 1, self.hidden, self.hidden)
            yield from self.all_reduce("embedding_all_reduce", 1)
        for layer, count in self.model.stage_layers(self.ranks):
            self.unquantized = layer.unquantized
            norm = self.hidden * (1 + layer.norm_bias)
            yield self.moves("layernorm", layer.norms * count, 2 * self.hidden, 2 * self.hidden, norm)
            if isinstance(layer.attention, LatentAttention):
                yield from self.latent_attention(layer.attention, count)
            else:
                yield from self.attention(layer.attention, count)
            yield from self.all_reduce("attention_all_reduce", count)
            if isinstance(layer.mlp, MixtureOfExperts):
                yield from self.experts(layer.mlp, count)
            else:
                yield from self.mlp("", layer.mlp, "mlp", count, self.tp)
                yield from self.after_mlp(count, self.ranks.part == "attention" and self.tp > 1)
        self.unquantized = frozenset()
        if self.ranks.is_last_stage:
            yield from self.end()
        else:
            yield from self.to_next_stage()

    def to_next_stage(self) -> Iterator[RankOperator]:
        """Hidden states and residual, two tensors; tensor-parallel ranks send a part each and gather them again."""
        part = self.hidden / self.tp
        yield Collective("pipeline_send", 2, "send", "tokens", part, self.size, "stage")
        if self.tp > 1:
            yield Collective("pipeline_gather", 2, "all_gather", "tokens", self.hidden, self.size)

    def moves(
        self, name: str, count: int, read: int, written: int, weights: int = 0, items: Items = "tokens"
    ) -> Elementwise:
        return Elementwise(name, count, items, read, written, weights * self.size, self.size)

    def gemm(
        self, name: str, count: int, n: int, k: int, linear: str, *, bias: bool = False, items: Items = "tokens"
    ) -> Gemm:
        return Gemm(name, count, items, n, k, self.form(linear), bias, activation_bytes=self.size)

    def form(self, linear: str) -> WeightFormat:
        return self.model.weight_format("" if linear in self.unquantized else linear)

    def all_reduce(self, name: str, count: int) -> Iterator[Collective]:
        if self.tp > 1:
            yield Collective(name, count, "all_reduce", "tokens", self.hidden, self.size)

    def attention(self, part: Attention, count: int) -> Iterator[RankOperator]:
        heads, kv_heads = part.num_heads // self.tp, part.kv_heads_per_rank(self.tp)
        query, key = heads * part.head_dim, kv_heads * part.head_dim
        yield self.gemm("qkv_proj", count, query + 2 * key, self.hidden, "qkv_proj", bias=part.qkv_bias)
        if part.qk_norm != "none":
            weights = {"head": 2 * part.head_dim, "projection": query + key}.get(part.qk_norm, 0)
            yield self.moves("qk_norm", count, query + key, query + key, weights)
        yield self.moves("rotary_emb", count, query + key, query + key)
        kernel = AttentionKernel(
            "attention", count, part.kind, "both", heads, kv_heads, part.head_dim, part.v_head_dim,
            part.window, part.window_kind, part.kv_elements_per_token(self.tp) * self.kv_size, self.size,
        )  # fmt: skip
        yield from self.over_prefill_ranks(kernel, 2 * key)
        if self.ranks.decode_context > 1:
            yield from self.over_context_ranks(kernel)
        else:
            yield kernel
        yield self.gemm("o_proj", count, self.hidden, query, "o_proj", bias=part.o_bias)

    def over_prefill_ranks(self, kernel: AttentionKernel, elements: int) -> Iterator[RankOperator]:
        """Ranks that divide a chunk's tokens gather the chunk's keys and values."""
        if self.ranks.prefill_context > 1:
            yield Collective(
                "kv_gather", kernel.count, "all_gather", "prefill_tokens", elements, self.size, "prefill_context"
            )

    def over_context_ranks(self, kernel: AttentionKernel) -> Iterator[RankOperator]:
        """Each rank attends to its part of the cached tokens for all ranks' heads; then partial outputs are merged.

        Over chunks, too: they attend to their context like this, and to themselves as usual.
        """
        yield from self.gathered("query_gather", kernel, kernel.head_dim, "tokens")
        yield self.on_context_part(kernel)
        yield replace(kernel, phase="prefill", context_ranks=self.ranks.decode_context)
        yield from self.merged(kernel, "tokens")

    def on_context_part(self, kernel: AttentionKernel) -> AttentionKernel:
        ranks = self.ranks.decode_context
        return replace(kernel, phase="decode", num_heads=kernel.num_heads * ranks, context_ranks=ranks)

    def gathered(self, name: str, kernel: AttentionKernel, head: int, items: Items) -> Iterator[RankOperator]:
        elements = kernel.num_heads * self.ranks.decode_context * head
        yield Collective(name, kernel.count, "all_gather", items, elements, self.size, "decode_context")

    def merged(self, kernel: AttentionKernel, items: Items) -> Iterator[RankOperator]:
        """Gather the log-sum-exps (32 bits per head); add outputs up where the heads belong."""
        heads = kernel.num_heads * self.ranks.decode_context
        sums = heads * self.ranks.decode_context
        yield Collective("lse_gather", kernel.count, "all_gather", items, sums, 4, "decode_context")
        output = heads * kernel.v_head_dim
        yield Collective("output_scatter", kernel.count, "reduce_scatter", items, output, self.size, "decode_context")

    def latent_attention(self, part: LatentAttention, count: int) -> Iterator[RankOperator]:
        heads, rank = part.num_heads // self.tp, part.kv_lora_rank
        query, value = heads * part.head_dim, heads * part.v_head_dim
        low = part.q_lora_rank or 0
        if low:
            yield self.gemm("q_a_proj", count, low, self.hidden, "q_a_proj", bias=part.qkv_bias)
            yield self.moves("q_a_layernorm", count, low, low, low)
        yield self.gemm("q_b_proj", count, query, low or self.hidden, "q_b_proj")
        yield self.gemm("kv_a_proj", count, part.latent_dim, self.hidden, "kv_a_proj", bias=part.qkv_bias)
        yield self.moves("kv_a_layernorm", count, rank, rank, rank)
        rotated = (heads + 1) * part.qk_rope_head_dim
        yield self.moves("rotary_emb", count, rotated, rotated)
        yield from self.latent_kernels(part, count, heads)
        yield self.gemm("o_proj", count, self.hidden, value, "o_proj", bias=part.o_bias)

    def latent_kernels(self, part: LatentAttention, count: int, heads: int) -> Iterator[RankOperator]:
        """Prompts expand keys and values; decodes absorb the expansion into queries and outputs, as in vLLM."""
        rank, nope, value = part.kv_lora_rank, part.qk_nope_head_dim, part.v_head_dim
        cache = part.latent_dim * self.kv_size
        plain = self.form("")
        contexts = self.ranks.decode_context
        if contexts > 1:
            gathered = part.latent_dim * self.kv_size // self.size
            yield Collective(
                "context_gather", count, "all_gather", "prefill_context_tokens", gathered, self.size, "decode_context"
            )
        yield self.gemm("kv_b_proj", count, heads * (nope + value), rank, "kv_b_proj", items="prefill_kv_tokens")
        prefill = AttentionKernel(
            "attention_prefill", count, "mla", "prefill", heads, heads, part.head_dim, value,
            part.window, part.window_kind, cache, self.size,
        )  # fmt: skip
        yield from self.over_prefill_ranks(prefill, part.latent_dim)
        yield prefill
        yield Gemm("q_absorb", count, "decode_tokens", rank, nope, plain, batch=heads, activation_bytes=self.size)
        decode = AttentionKernel(
            "attention_decode", count, "mla", "decode", heads, 1, part.latent_dim, rank,
            part.window, part.window_kind, cache, self.size,
        )  # fmt: skip
        if contexts > 1:
            yield from self.gathered("query_gather", decode, part.latent_dim, "decode_tokens")
            yield self.on_context_part(decode)
            yield from self.merged(decode, "decode_tokens")
        else:
            yield decode
        yield Gemm("v_expand", count, "decode_tokens", value, rank, plain, batch=heads, activation_bytes=self.size)

    def mlp(
        self, prefix: str, part: Mlp, linear: str, count: int, ranks: int, items: Items = "tokens"
    ) -> Iterator[RankOperator]:
        width = part.intermediate_size // ranks
        yield self.gemm(f"{prefix}gate_up_proj", count, 2 * width, self.hidden, linear, bias=part.bias, items=items)
        yield self.moves(f"{prefix}act_fn", count, 2 * width, width, items=items)
        yield self.gemm(f"{prefix}down_proj", count, self.hidden, width, linear, bias=part.bias, items=items)

    def experts(self, part: MixtureOfExperts, count: int) -> Iterator[RankOperator]:
        """Router, routed and shared experts; what ranks exchange for the routed ones depends on where tokens go.

        Where tensor-parallel ranks divide the tokens, each has the router and whole shared experts for its part, and
        they gather the result.
        """
        divided = self.ranks.sequence_parallel_experts
        items: Items = "chunk_tokens" if divided else "tokens"
        yield self.gemm("router", count, part.num_experts, self.hidden, "", bias=part.router_bias, items=items)
        yield self.moves("top_k", count, part.num_experts, 2 * part.top_k, items=items)
        yield from self.routed(part, count)
        if part.shared_intermediate_size:
            shared = Mlp(part.shared_intermediate_size)
            yield from self.mlp("shared_experts.", shared, "shared_experts", count, 1 if divided else self.tp, items)
            if part.shared_gate:
                yield self.gemm("shared_experts.gate", count, 1, self.hidden, "", items=items)
        yield from self.after_mlp(count, divided)

    def after_mlp(self, count: int, divided: bool) -> Iterator[RankOperator]:
        """Bring together what tensor-parallel ranks have: parts of the tokens, or summands of all."""
        if divided:
            yield Collective("mlp_all_gather", count, "all_gather", "tokens", self.hidden, self.size)
        else:
            yield from self.all_reduce("mlp_all_reduce", count)

    def routed(self, part: MixtureOfExperts, count: int) -> Iterator[RankOperator]:
        """Yield the routed experts' operators; activation and sum pass over all slots, ``top_k`` for each token."""
        local = -(-part.num_experts // self.ranks.expert)
        width = part.intermediate_size // self.ranks.expert_tensor
        yield self.grouped("experts.gate_up_proj", count, part, local, 2 * width, self.hidden)
        yield self.moves("experts.act_fn", count, part.top_k * 2 * width, part.top_k * width, items="routed_tokens")
        yield self.grouped("experts.down_proj", count, part, local, self.hidden, width)
        yield self.moves("experts.sum", count, part.top_k * self.hidden, self.hidden, items="routed_tokens")

    def grouped(self, name: str, count: int, part: MixtureOfExperts, local: int, n: int, k: int) -> GroupedGemm:
        return GroupedGemm(
            name, count, part.num_experts, local, part.top_k, n, k, self.form("experts"), part.bias, self.size
        )

    def end(self) -> Iterator[RankOperator]:
        if self.ranks.prefill_context > 1:
            yield Collective(
                "hidden_gather", 1, "all_gather", "prefill_tokens", self.hidden, self.size, "prefill_context"
            )
        weights = self.hidden * (1 + self.model.final_norm_bias)
        yield self.moves("final_layernorm", 1, 2 * self.hidden, 2 * self.hidden, weights)
        vocabulary = self.model.padded_vocab_per_rank(self.tp)
        head = "" if self.model.tie_word_embeddings else "lm_head"
        bias = self.model.lm_head_bias
        yield self.gemm("lm_head", 1, vocabulary, self.hidden, head, bias=bias, items="sequences")
        if self.tp > 1:
            yield Collective("logits_gather", 1, "all_gather", "sequences", self.model.vocab_size, self.size)
