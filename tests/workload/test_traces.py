"""The readers of Mooncake's and Claude Code's traces."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from workload_helpers import ADAPTER, Record, shared_prefix_lengths, write_lines

from servetwin.core.errors import InputError
from servetwin.testing.workload_sources import WorkloadSourceConformance
from servetwin.workload.base import NO_PARENT, RELEASED_LATER, WorkloadSource
from servetwin.workload.claude_code import ClaudeCodeSource
from servetwin.workload.mooncake import MooncakeSource, spread


def row(timestamp: int, prompt: int, ids: list[Any], output: int = 5, **more: Any) -> Record:
    """Return a line of Mooncake's."""
    return {"timestamp": timestamp, "input_length": prompt, "output_length": output, "hash_ids": ids} | more


def call(t: float, prompt: int, ids: list[Any], **more: Any) -> Record:
    """Return a call of Claude Code's."""
    return {"t": t, "type": "n", "model": "m", "in": prompt, "out": 7, "hash_ids": ids, "api_time": 2.0} | more


def session(*calls: Record, **more: Any) -> Record:
    """Return a session of Claude Code's."""
    head = {"id": "s", "models": ["m"], "block_size": 64, "hash_id_scope": "local", "tool_tokens": 100}
    return head | {"system_tokens": 60, "requests": list(calls)} | more


def subagent(t: float, duration_ms: int | None, *calls: Record) -> Record:
    """Return a subagent of Claude Code's."""
    head = {"t": t, "type": "subagent", "agent_id": "a", "duration_ms": duration_ms, "tool_tokens": 64}
    return head | {"system_tokens": 0, "requests": list(calls)}


def folder(path: Path, *sessions: Record) -> Path:
    """Write sessions into a folder."""
    path.mkdir(exist_ok=True)
    for number, record in enumerate(sessions):
        (path / f"trace_{number}.json").write_text(json.dumps(record))
    return path


SESSIONS = [
    session(
        call(0, 300, [1, 2, 3, 4]),
        subagent(9.0, 6_000, call(0, 100, [50]), call(3, 130, [50, 51])),
        call(12, 400, [1, 2, 3, 4, 5, 6], think_time=10.0),
        call(20, 460, [1, 2, 3, 7, 8, 9, 10], think_time=5.5),
    ),
    session(call(0, 200, [1, 2, 3]), call(5, 64, [1], think_time=3.0)),
]


class TestMooncakeConforms(WorkloadSourceConformance):
    """Mooncake's reader conforms."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        rows = [
            row(3000 * (i // 4), 513 + 512 * (i % 3), [0, *range(10 * i + 1, 10 * i + 2 + i % 3)]) for i in range(40)
        ]
        self.path = write_lines(tmp_path / "trace.jsonl", *rows)

    def make_source(self) -> WorkloadSource:
        """Return the reader of a small trace."""
        return MooncakeSource(self.path, sessions_per_s=2.0)


class TestClaudeCodeConforms(WorkloadSourceConformance):
    """Claude Code's reader conforms."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = folder(tmp_path / "traces", *SESSIONS * 5)

    def make_source(self) -> WorkloadSource:
        """Return the reader of some sessions."""
        return ClaudeCodeSource(self.path, 0.5, shared_system_prompts=True)


def test_mooncake_s_rows_become_requests(tmp_path: Path) -> None:
    """Lengths, arrivals and what prompts share are those of the file; a tick is spread evenly, and that is said."""
    rows = [row(0, 1024, [0, 1]), row(0, 1300, [0, 1, 2]), row(0, 600, [0, 3]), row(3000, 700, [0, 4], output=9)]
    path = write_lines(tmp_path / "trace.jsonl", *rows)
    workload = MooncakeSource(path).build(0)
    assert workload.arrival_ns.tolist() == [0, 10**9, 2 * 10**9, 3 * 10**9]
    assert workload.prompt_tokens.tolist() == [1024, 1300, 600, 700]
    assert workload.output_tokens.tolist() == [5, 5, 5, 9]
    assert [shared_prefix_lengths(workload, 0, other, 16) for other in (1, 2, 3)] == [64, 32, 32]
    assert "spread evenly over at most 3 s (2 of 4 moved)" in workload.notices[0]
    assert MooncakeSource(path, tick_s=0).build(0).arrival_ns.tolist() == [0, 0, 0, 3 * 10**9]


def test_mooncake_s_equal_rows_share_their_prompts_only(tmp_path: Path) -> None:
    """Two prompts with equal ids are equal to their last full block; their answers are not."""
    rows = [row(0, 600, [0, 1], output=1000)] * 2
    workload = MooncakeSource(write_lines(tmp_path / "trace.jsonl", *rows)).build(0)
    assert shared_prefix_lengths(workload, 0, 1, 16) == 600 // 16


def test_mooncake_is_stretched_to_a_rate(tmp_path: Path) -> None:
    """With ``sessions_per_s`` all gaps are stretched alike; rows out of order are sorted, and both are said."""
    rows = [row(6000, 10, [0]), row(0, 10, [0]), row(2000, 10, [0])]
    path = write_lines(tmp_path / "trace.jsonl", *rows)
    workload = MooncakeSource(path, sessions_per_s=0.1).build(0)
    assert workload.arrival_ns.tolist() == [0, 20 * 10**9 / 3 // 1 + 1, 20 * 10**9]
    assert [words in " ".join(workload.notices) for words in ("sorted", "stretched to 0.1")] == [True, True]
    assert len(MooncakeSource(path, limit=2).build(0)) == 2


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 9))
def test_spreading_keeps_the_order(times: list[int], tick: int) -> None:
    """Spread times ascend, stay within the tick and before the next time, and the first of each time stays."""
    before = np.array(sorted(times), dtype=np.int64) * 10
    after = spread(before, tick)
    assert (np.diff(after) >= 0).all()
    assert ((after >= before) & (after < before + tick)).all()
    assert (after[np.flatnonzero(np.diff(before, prepend=-1))] == np.unique(before)).all()


BAD_ROWS: list[tuple[Record | str, str]] = [
    ('{"timestamp": 0', "not a JSON object"),
    ("[1]", "must be a JSON object"),
    (row(0, 10, [0]) | {"timestamp": -1}, "timestamp is -1; allowed"),
    (row(0, 0, []), "input_length is 0; allowed"),
    (row(0, 10, [0], output=0), "output_length is 0"),
    (row(0, 513, [0]), "hash_ids has 1 ids; allowed: 2, one per 512 tokens"),
    (row(0, 10, [True]), "hash_ids has true; allowed"),
    (row(0, 10, [1.5]), "hash_ids has 1.5; allowed"),
    (row(0, 10, [-4]), "hash_ids has -4; allowed"),
    (row(0, 10, [2**70]), "hash_ids has 1180591620717411303424; allowed"),
    (row(0, 10, [0], extra=1), "unknown key 'extra'"),
    ({"timestamp": 0, "input_length": 10, "output_length": 1}, "hash_ids must be a list of ids, not null"),
    ({"timestamp": 0, "output_length": 1, "hash_ids": [0]}, "input_length is missing"),
    (row(0, 513, [7, 0]), "hash_ids has id 0 behind id 7"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS)
def test_mooncake_s_bad_rows_are_refused(bad: Record | str, message: str, tmp_path: Path) -> None:
    """A wrong row is an error with file and line, the key and what is allowed."""
    path = write_lines(tmp_path / "trace.jsonl", row(0, 10, [0]), bad)
    with pytest.raises(InputError, match=rf"trace.jsonl:2: .*{message}"):
        MooncakeSource(path).build(0)


def test_mooncake_without_requests_is_refused(tmp_path: Path) -> None:
    """An empty file, and one whose times cannot be stretched, are refused."""
    with pytest.raises(InputError, match="the file has no request"):
        MooncakeSource(write_lines(tmp_path / "none.jsonl")).build(0)
    path = write_lines(tmp_path / "one.jsonl", row(5, 10, [0]))
    with pytest.raises(InputError, match="all requests have one timestamp"):
        MooncakeSource(path, sessions_per_s=1).build(0)


def test_claude_code_s_calls_wait_for_each_other(tmp_path: Path) -> None:
    """A subagent starts after the call before it, and the next call after the subagent; pauses are the trace's."""
    workload = ClaudeCodeSource(folder(tmp_path / "t", *SESSIONS), 2.0).build(3)
    assert workload.prompt_tokens.tolist() == [300, 200, 100, 130, 400, 460, 64]
    assert workload.parent is not None
    assert workload.delay_ns is not None
    assert workload.parent.tolist() == [NO_PARENT, NO_PARENT, 0, 2, 3, 4, 1]
    # the subagent began at 3 s, 1 s after the call before it ended; its second call lasts from 6 to 8 s
    assert (workload.delay_ns / 1e9).tolist() == [0, 0, 1, 1, 4, 5.5, 3]
    assert (workload.arrival_ns[2:] == RELEASED_LATER).all()
    assert workload.session_id == ["trace_0", "trace_1", *["trace_0"] * 4, "trace_1"]


def test_claude_code_s_sharing_is_within_sessions(tmp_path: Path) -> None:
    """Calls of a session share what their ids say; sessions share their first texts only if asked to."""
    path = folder(tmp_path / "t", *SESSIONS)
    workload = ClaudeCodeSource(path, 2.0).build(3)
    pairs = [(0, 4), (4, 5), (0, 2), (2, 3), (0, 1)]
    assert [shared_prefix_lengths(workload, *pair, 16) for pair in pairs] == [16, 12, 0, 4, 0]
    shared = ClaudeCodeSource(path, 2.0, shared_system_prompts=True).build(3)
    # 160 tokens of tools and system prompt are 2 whole hashes
    assert [shared_prefix_lengths(shared, *pair, 16) for pair in pairs] == [16, 12, 0, 4, 8]


def test_claude_code_s_unknown_times(tmp_path: Path) -> None:
    """After a call of unknown length the whole gap is the pause; long pauses are cut where asked; no output is one."""
    calls = [call(0, 64, [1]), call(50, 64, [1], think_time=90.0, out=0), call(950, 64, [1])]
    del calls[0]["api_time"]
    path = folder(tmp_path / "t", session(*calls))
    workload = ClaudeCodeSource(path, 1.0).build(0)
    assert workload.delay_ns is not None
    assert (workload.delay_ns / 1e9).tolist() == [0, 50, 898]
    assert workload.output_tokens.tolist() == [7, 1, 7]
    assert "1 calls have no output tokens" in " ".join(workload.notices)
    cut = ClaudeCodeSource(path, 1.0, max_pause_s=60).build(0)
    assert cut.delay_ns is not None
    assert (cut.delay_ns / 1e9).tolist() == [0, 50, 60]


def test_claude_code_s_launched_subagents_are_not_waited_for(tmp_path: Path) -> None:
    """A subagent without a duration runs beside the main agent, from its ``t`` on."""
    record = session(call(0, 64, [1]), subagent(3.0, None, call(0, 64, [9])), call(6, 64, [1], think_time=4.0))
    workload = ClaudeCodeSource(folder(tmp_path / "t", record), 1.0).build(0)
    assert workload.parent is not None
    assert workload.delay_ns is not None
    assert (workload.parent.tolist(), (workload.delay_ns / 1e9).tolist()) == ([-1, 0, 0], [0, 1, 4])


def test_claude_code_s_archives(tmp_path: Path) -> None:
    """An archive, a folder and single files hold the same sessions; ``limit`` counts sessions."""
    path = folder(tmp_path / "t", *SESSIONS)
    for name, mode in (("all.tar", "w"), ("all.tar.xz", "w:xz"), ("all.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as archive:  # type: ignore[call-overload]
            for file in sorted(path.iterdir()):
                archive.add(file, arcname=f"traces/{file.name}")
        workload = ClaudeCodeSource(tmp_path / name, 2.0).build(3)
        assert workload.prompt_tokens.tolist() == ClaudeCodeSource(path, 2.0).build(3).prompt_tokens.tolist()
        assert len(ClaudeCodeSource(tmp_path / name, 2.0, limit=1).build(3)) == 5
    assert len(ClaudeCodeSource(path / "trace_1.json", 2.0).build(3)) == 2
    (tmp_path / "one.json.gz").write_bytes(gzip.compress((path / "trace_1.json").read_bytes()))
    assert len(ClaudeCodeSource(tmp_path / "one.json.gz", 2.0).build(3)) == 2


BAD_SESSIONS: list[tuple[Record, str]] = [
    (session(), "requests is empty"),
    (session(call(0, 64, [1]), block_size=32), "block_size is 32; allowed: whole numbers of 64 to 64"),
    (session(call(0, 64, [1]), hash_id_scope="global"), 'hash_id_scope is "global"; allowed: "local"'),
    (session(call(0, 64, [1]), requests=7), "requests must be a list of calls, not 7"),
    (session(call(0, 64, [1]), requests=[7]), r"requests\[0\]: must be a JSON object"),
    (session(call(0, 64, [1]), call(1, 128, [1])), r"requests\[1\]: hash_ids has 1 ids; allowed: 2, one per 64 whole"),
    (session(call(0, 64, [1]), call(-1, 64, [1])), r"requests\[1\]: t is -1; allowed"),
    (session(call(0, 64, [1], think_time=True)), r"requests\[0\]: think_time is true; allowed"),
    (session(call(0, 64, [1], thinktime=1.0)), "unknown key 'thinktime'; did you mean 'think_time'"),
    (session(call(0, 0, [])), "in is 0; allowed"),
    (session(subagent(1, 1, call(0, 64, [1]))), "begins with a call of its own, not with a subagent"),
    (session(call(0, 64, [1]), call(1, 128, [2, 1])), r"requests\[1\]: hash_ids has id 1 behind id 2"),
    (session(call(0, 64, [1]), subagent(1, 1, call(0, 64, [1], out=-1))), r"\[1\]: requests\[0\]: out is -1"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_SESSIONS)
def test_claude_code_s_bad_sessions_are_refused(bad: Record, message: str, tmp_path: Path) -> None:
    """A wrong session is an error with file and call, the key and what is allowed."""
    with pytest.raises(InputError, match=rf"trace_0.json: .*{message}"):
        ClaudeCodeSource(folder(tmp_path / "t", bad), 1.0).build(0)


def test_claude_code_s_bad_files_are_refused(tmp_path: Path) -> None:
    """No file, no session, no archive and a cut archive are errors that name the file."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:xz") as archive:
        archive.add(folder(tmp_path / "t", *SESSIONS), arcname="t")
    (tmp_path / "cut.tar.xz").write_bytes(raw.getvalue()[:200])
    (tmp_path / "text.tar").write_text("no archive")
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("none.tar.xz", "no such file"),
        ("cut.tar.xz", "cannot be read"),
        ("text.tar", "cannot be read as a tar archive"),
        ("empty", "there is no session"),
    ]:
        with pytest.raises(InputError, match=rf"{name}: .*{message}"):
            ClaudeCodeSource(tmp_path / name, 1.0).build(0)


@pytest.mark.parametrize(("kind", "source"), [("mooncake", MooncakeSource), ("claude_code", ClaudeCodeSource)])
def test_options_make_readers(kind: str, source: type[Any], tmp_path: Path) -> None:
    """A scenario's options reach the reader, with the path taken from the scenario's folder."""
    made = ADAPTER.validate_python({"kind": kind, "path": "w", "sessions_per_s": 0.5, "limit": 3}).at(tmp_path).source()
    assert isinstance(made, source)
    assert (made.path, made.sessions_per_s, made.limit) == (tmp_path / "w", 0.5, 3)
