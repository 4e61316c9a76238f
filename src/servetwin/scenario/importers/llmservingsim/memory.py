"""LLMServingSim's formula for weights and KV blocks per rank (FORMATS of the reference data, section 3.2)."""

from __future__ import annotations

from servetwin.core.errors import InputError
from servetwin.core.units import GIB
from servetwin.llm.base import ModelArchitecture


def weight_bytes_per_rank(model: ModelArchitecture, ranks: int, element_bytes: int) -> int:
    """Return LSS's weight bytes of one rank: two embeddings, all blocks without Q/K norms, the final norm."""
    hidden = model.hidden_size
    query, kv = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    vocabulary = model.vocab_size // ranks * hidden
    feed_forward = 3 * hidden * (model.intermediate_size // ranks)
    block = 2 * hidden + hidden * ((query + 2 * kv) // ranks) + (query // ranks) * hidden + feed_forward
    return (2 * vocabulary + model.num_hidden_layers * block + hidden) * element_bytes


def kv_bytes_per_token_per_rank(model: ModelArchitecture, ranks: int, element_bytes: int) -> int:
    """Return LSS's KV bytes of one token on one rank."""
    return 2 * model.num_key_value_heads * model.head_dim * model.num_hidden_layers * element_bytes // ranks


def lss_kv_blocks(
    memory_gib: float, utilization: float, weight_bytes: int, bytes_per_token: int, block_size: int, where: str
) -> int:
    """Return LSS's number of KV blocks: what ``utilization`` of the memory leaves beside the weights.

    Raises
    ------
    InputError
        If the weights leave no room for a block.
    """
    usable = int(int(memory_gib * GIB) * utilization)
    blocks = (usable - weight_bytes) // (bytes_per_token * block_size)
    if blocks < 1:
        raise InputError(
            f"the model does not fit: {weight_bytes / GIB:.2f} GiB of weights per accelerator, "
            f"{usable / GIB:.2f} GiB usable ({memory_gib:g} GiB x {utilization:g})",
            where=where,
        )
    return blocks
