"""LLMServingSim's own formulas for weights and KV capacity, integer divisions as it has them."""

from __future__ import annotations

from servetwin.core.errors import InputError
from servetwin.core.number_formats import bytes_per_element
from servetwin.core.units import GIB
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.parts import MixtureOfExperts
from servetwin.memory.kv_capacity import KvCapacity


def lss_weight_bytes(
    architecture: ModelArchitecture,
    ranks: int = 1,
    *,
    dtype: str | None = None,
    pipeline_parallel_size: int = 1,
    expert_parallel_size: int = 1,
) -> int:
    """Return LLMServingSim's bytes of weights per rank.

    Other than the true figure it counts two embeddings even where they are tied, no biases and no norms of queries and
    keys, and does not pad the vocabulary. Each pipeline stage is taken to hold embedding, LM head and
    ``layers // stages`` blocks. Experts are divided by ``expert_parallel_size`` (of the whole group) and never by
    ``ranks``.
    """
    hidden = architecture.hidden_size
    query = architecture.num_attention_heads * architecture.head_dim
    key_value = architecture.num_key_value_heads * architecture.head_dim
    attention = hidden * ((query + 2 * key_value) // ranks) + query // ranks * hidden
    layer = 2 * hidden + attention + _mlp_elements(architecture, ranks, expert_parallel_size)
    vocabulary = architecture.vocab_size // ranks * hidden
    elements = 2 * vocabulary + architecture.num_hidden_layers // pipeline_parallel_size * layer + hidden
    return elements * bytes_per_element(dtype or architecture.dtype)


def _mlp_elements(architecture: ModelArchitecture, ranks: int, expert_parallel_size: int) -> int:
    """Return the elements of a dense MLP, or of the router and the experts that a rank holds."""
    hidden, mlp = architecture.hidden_size, architecture.layer_sequence[0].mlp
    if isinstance(mlp, MixtureOfExperts):
        experts = mlp.num_experts // expert_parallel_size
        return hidden * mlp.num_experts + experts * 3 * hidden * mlp.intermediate_size
    return 3 * hidden * (architecture.intermediate_size // ranks)


def lss_kv_bytes_per_token(
    architecture: ModelArchitecture, ranks: int = 1, *, dtype: str | None = None, pipeline_parallel_size: int = 1
) -> int:
    """Return LLMServingSim's bytes of KV per token and rank: divided by the ranks even where heads are replicated."""
    per_layer = (
        2 * architecture.num_key_value_heads * architecture.head_dim * bytes_per_element(dtype or architecture.dtype)
    )
    return per_layer * architecture.num_hidden_layers // (ranks * pipeline_parallel_size)


def lss_kv_capacity(
    architecture: ModelArchitecture,
    mem_size_gib: float,
    *,
    tensor_parallel_size: int = 1,
    pipeline_parallel_size: int = 1,
    expert_parallel_size: int = 1,
    mem_util: float = 0.9,
    block_size: int = 16,
    dtype: str | None = None,
    kv_cache_dtype: str | None = None,
    where: str | None = None,
    away_bytes: int = 0,
) -> KvCapacity:
    """Return the KV capacity that LLMServingSim computes from a cluster file.

    Parameters
    ----------
    mem_size_gib
        ``npu_mem.mem_size``, in units of 2**30 bytes.
    expert_parallel_size
        Of the whole data-parallel group (``ep_size``).
    mem_util
        ``npu_mem.mem_util`` or ``--npu-memory-utilization``; 1.0 for the older branch, which has no such factor.
    where
        The key's path, for messages.
    away_bytes
        Weights of one rank that lie elsewhere and count no longer (LLMServingSim: 0, it counts them all).

    Raises
    ------
    InputError
        If the weights leave no room for a block.
    """
    usable = int(mem_size_gib * GIB * mem_util)
    weights = lss_weight_bytes(
        architecture,
        tensor_parallel_size,
        dtype=dtype,
        pipeline_parallel_size=pipeline_parallel_size,
        expert_parallel_size=expert_parallel_size,
    )
    weights -= away_bytes
    per_token = lss_kv_bytes_per_token(
        architecture,
        tensor_parallel_size,
        dtype=kv_cache_dtype or dtype,
        pipeline_parallel_size=pipeline_parallel_size,
    )
    blocks = (usable - weights) // (per_token * block_size)
    if blocks < 1:
        raise InputError(
            f"{architecture.name} does not fit: {mem_size_gib:g} GiB x {mem_util:g} = {usable} bytes, less "
            f"{weights} bytes of weights per rank, holds no KV block of {per_token * block_size} bytes; "
            "raise mem_size, mem_util or the parallelism",
            where=where,
        )
    return KvCapacity(blocks, per_token * block_size, usable, weights, 0)
