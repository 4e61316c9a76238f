"""An infinite tier finds what a real trace has in common with itself, no more and no less."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

import servetwin

LINES = 1500


def own_hits(path: Path) -> tuple[int, int]:
    """Return how many whole chunks of 512 tokens of the prompts begin an earlier prompt, and how many there are."""
    seen: set[int] = set()
    hits = chunks = 0
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for _, line in zip(range(LINES), file, strict=False):
            request = json.loads(line)
            whole = request["hash_ids"][: (request["input_length"] - 1) // 512]
            chunks += len(whole)
            for number in whole:
                if number not in seen:
                    break
                hits += 1
            seen.update(request["hash_ids"][: request["input_length"] // 512])
    return hits, chunks


@pytest.mark.measured
def test_an_infinite_tier_has_the_traces_own_hit_rate(reference: Path) -> None:
    """Of Mooncake's conversations, one by one: chunk by chunk the same as counted from the ids."""
    path = reference.parent / "traces" / "mooncake" / "conversation_trace.jsonl.gz"
    result = servetwin.simulate(
        {
            "model": "meta-llama/Llama-3.1-8B",
            "cluster": [
                {
                    "name": "chat",
                    "engine": {
                        "num_gpu_blocks_override": 8195,
                        "max_model_len": 131_072,
                        "max_num_batched_tokens": 131_072,
                    },
                    "step": {"model": "fixed", "step_ns": 1000},
                }
            ],
            "tiers": {
                "chunk_tokens": 512,
                "instant_writes": True,
                "levels": [{"kind": "remote", "bandwidth_gb_per_s": 1e6, "latency_us": 0}],
            },
            "workload": {"kind": "mooncake", "path": str(path), "limit": LINES, "sessions_per_s": 0.1},
        }
    )
    hits, chunks = own_hits(path)
    (tier,) = result.summary["tiers"]
    assert tier["evicted_chunks"] == 0
    found = result.requests["cached_tokens"] + result.requests["tier_tokens"]
    assert int((found // 512).sum()) == hits
    assert tier["hit_chunks"] + tier["missed_chunks"] <= chunks
    assert 0.25 < hits / chunks < 0.5
