"""KV capacity where more than tensor parallelism divides a model."""

from __future__ import annotations

from dataclasses import replace

from servetwin.hardware.catalogue import load_device
from servetwin.llm.catalogue import load_model
from servetwin.llm.parallel import Parallelism
from servetwin.memory import kv_capacity

LLAMA_70B = load_model("meta-llama/Llama-3.1-70B")
DEEPSEEK = load_model("deepseek-ai/DeepSeek-V2")
H200 = load_device("H200-SXM")


def test_stages_hold_their_own_layers() -> None:
    """A stage of half the layers has weights and KV bytes of half, beside the embedding or the head."""
    whole = kv_capacity(LLAMA_70B, H200, parallelism=Parallelism(2))
    stages = [kv_capacity(LLAMA_70B, H200, parallelism=Parallelism(2, 2, stage=stage)) for stage in (0, 1)]
    assert all(stage.block_bytes * 2 == whole.block_bytes for stage in stages)
    assert abs(sum(stage.weight_bytes for stage in stages) - whole.weight_bytes) < 10**6
    assert all(stage.num_blocks > 2 * whole.num_blocks for stage in stages)


def test_only_the_last_stage_samples() -> None:
    """Logits take memory where the head is."""
    first, last = (kv_capacity(LLAMA_70B, H200, parallelism=Parallelism(4, 2, stage=stage)) for stage in (0, 1))
    assert first.parts.get("logits", 0) == 0
    assert first.reserve_bytes <= last.reserve_bytes


def test_expert_ranks_divide_experts_over_all_data_ranks() -> None:
    """DeepSeek-V2 on 8 devices: routed experts are divided by 8 whether attention is tensor- or data-parallel."""
    tensor = kv_capacity(DEEPSEEK, H200, parallelism=Parallelism(8, expert=8))
    data = kv_capacity(DEEPSEEK, H200, parallelism=Parallelism(1, data=8, expert=8))
    attention = DEEPSEEK.weight_bytes(1) - DEEPSEEK.weight_bytes(ranks=Parallelism(1, data=8, expert=8))
    assert attention > 0.8 * DEEPSEEK.weight_bytes(1)
    assert tensor.weight_bytes < data.weight_bytes < DEEPSEEK.weight_bytes(1) / 4


def test_context_ranks_share_the_tokens_of_a_sequence() -> None:
    """Each holds its part of a block, so that twice as many blocks fit."""
    ranks = Parallelism(8)
    alone = kv_capacity(DEEPSEEK, H200, parallelism=ranks)
    shared = kv_capacity(DEEPSEEK, H200, parallelism=replace(ranks, decode_context=2))
    assert shared.block_bytes * 2 == alone.block_bytes
    assert shared.num_blocks in (2 * alone.num_blocks, 2 * alone.num_blocks + 1)
