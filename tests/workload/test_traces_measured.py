"""The given traces are read whole, as their SOURCE.md describes them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from servetwin.memory.tiers import ChunkStore
from servetwin.workload.base import Workload
from servetwin.workload.claude_code import ClaudeCodeSource
from servetwin.workload.coarse import keys_of
from servetwin.workload.mooncake import MooncakeSource

pytestmark = pytest.mark.measured


@pytest.fixture(scope="module")
def traces(reference: Path) -> Path:
    """Return the folder of traces, or skip the test where it is absent."""
    folder = reference.parent / "traces"
    if not (folder / "mooncake").is_dir() or not (folder / "claude-code").is_dir():
        pytest.skip(f"traces not found at {folder}")
    return folder


@pytest.fixture(scope="module")
def mooncake(traces: Path) -> Workload:
    """Return Mooncake's conversation trace."""
    return MooncakeSource(traces / "mooncake" / "conversation_trace.jsonl.gz").build(1)


def endless_hit_rate(workload: Workload, chunk_tokens: int) -> float:
    """Return the hit rate of an endless tier that is asked for each prompt's chunks, and then given them."""
    assert workload.contents is not None
    store = ChunkStore("endless", None, chunk_tokens)
    for row in range(len(workload)):
        keys = keys_of(workload.contents, row, chunk_tokens)[: int(workload.prompt_tokens[row]) // chunk_tokens]
        store.lookup(keys, row)
        store.insert(keys, len(keys), row)
    return store.hit_chunks / (store.hit_chunks + store.missed_chunks)


def test_mooncake_is_read_as_described(mooncake: Workload) -> None:
    """Requests, mean lengths and the span are the file's; ticks of 3 s are spread, and that is said."""
    assert len(mooncake) == 5719
    assert (round(mooncake.prompt_tokens.mean()), round(mooncake.output_tokens.mean())) == (12_870, 346)
    assert 1797 <= mooncake.arrival_ns[-1] / 1e9 < 1800
    assert "spread evenly" in mooncake.notices[0]
    assert np.diff(mooncake.arrival_ns).max() < 3.1e9


@pytest.mark.parametrize("chunk_tokens", [512, 256])
def test_mooncake_s_own_hit_rate(mooncake: Workload, chunk_tokens: int) -> None:
    """An endless tier hits what the ids say: 34.1 % of all ids of this part, 35.4 % of those of whole chunks."""
    assert mooncake.contents is not None
    seen: set[int] = set()
    hits = asked = 0
    for row in range(len(mooncake)):
        prompt = int(mooncake.prompt_tokens[row])
        keys = mooncake.contents.block_keys(row, chunk_tokens)[: prompt // chunk_tokens]
        found = [key in seen for key in keys]
        assert sorted(found, reverse=True) == found
        hits, asked = hits + sum(found), asked + len(found)
        seen.update(keys)
    assert endless_hit_rate(mooncake, chunk_tokens) == hits / asked
    assert hits / asked == pytest.approx(0.3544 if chunk_tokens == 512 else 0.3502, abs=0.005)


def test_claude_code_is_read_as_described(traces: Path) -> None:
    """The first 60 sessions: calls follow each other within them, and most of a prompt was there before; read fast."""
    started = time.process_time()
    workload = ClaudeCodeSource(traces / "claude-code" / "sessions.tar.xz", 0.1, limit=60).build(1)
    used_s = time.process_time() - started
    assert len(workload) / used_s > 500
    assert len(set(workload.session_id or [])) == 60
    assert (workload.arrival_ns >= 0).sum() == 60
    assert 0.9 < endless_hit_rate(workload, 64) < 0.99
