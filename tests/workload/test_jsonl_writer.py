"""Writing workloads as LLMServingSim's JSONL, and reading them back."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workload_helpers import build, flat, sub, write_lines

from servetwin.core.errors import InputError
from servetwin.workload.base import NO_PARENT, RELEASED_LATER, DistinctContents, Workload
from servetwin.workload.contents import TokenContents
from servetwin.workload.jsonl_writer import write_jsonl
from servetwin.workload.lss_jsonl import LssJsonlSource


def round_trip(workload: Workload, folder: Path) -> Workload:
    """Write a workload and read it back."""
    path = folder / "out.jsonl"
    write_jsonl(workload, path)
    return LssJsonlSource(path).build(0)


def described(workload: Workload) -> list[tuple[Any, ...]]:
    """Return what each request is, with its parent's row."""
    columns = [workload.arrival_ns, workload.prompt_tokens, workload.output_tokens]
    for name, none in (("parent", NO_PARENT), ("delay_ns", 0), ("priority", 0)):
        column = getattr(workload, name)
        columns.append(np.full(len(workload), none) if column is None else column)
    labels = [getattr(workload, name) or [None] * len(workload) for name in ("request_id", "session_id", "model")]
    return list(zip(*(column.tolist() for column in columns), *labels, strict=True))


def sharing(workload: Workload, block_size: int) -> dict[tuple[int, int], int]:
    """Return a number for each block of each request, equal where keys are, in order of first appearance."""
    assert workload.contents is not None
    first: dict[int, int] = {}
    places: dict[tuple[int, int], int] = {}
    for row in range(len(workload)):
        for block, key in enumerate(workload.contents.block_keys(row, block_size)):
            places[row, block] = first.setdefault(key, len(first))
    return places


def assert_same(written: Workload, read: Workload) -> None:
    """All that a file can say survives."""
    assert described(read) == described(written)
    if written.contents is None:
        assert read.contents is None
        return
    for block_size in (1, 4, 16):
        assert sharing(read, block_size) == sharing(written, block_size)


SESSIONS = {
    "count": 15,
    "turns": {"kind": "uniform", "min": 1, "max": 4},
    "think_s": {"kind": "exponential", "mean_s": 2},
}
SHORT = {
    "prompt_tokens": {"kind": "uniform", "min": 1, "max": 30},
    "output_tokens": {"kind": "uniform", "min": 1, "max": 9},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"requests": 40},
        {"requests": 40, "model": {"a": 1, "b": 1}, "priority": {0: 1, 2: 1}},
        {"requests": 40, "system_prompts": {"count": 3, "tokens": 20}},
        {"requests": None, "sessions": SESSIONS},
        {
            "requests": None,
            "sessions": SESSIONS,
            "system_prompts": {"count": 2, "tokens": 33},
            "model": {"a": 1, "b": 1},
        },
        {"requests": 40, "prompt_tokens": None, "output_tokens": None, "shared_prefix": {"num_groups": 2}},
    ],
)
def test_synthetic_workloads_survive(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Arrivals, lengths, chains, labels and what is shared are the same after writing and reading."""
    written = build(**(SHORT | changes))
    assert_same(written, round_trip(written, tmp_path))


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=9)
flat_lines = st.builds(
    lambda arrival_ns, prompt, output, known: (
        flat(arrival_ns, len(prompt), len(output))
        | ({"input_tok_ids": prompt} if known > 0 else {})
        | ({"output_tok_ids": output} if known > 1 else {})
    ),
    st.integers(0, 20), tokens, tokens, st.integers(0, 2),
)  # fmt: skip
sub_requests = st.builds(
    lambda prompt, output, tool, more: sub(prompt, output, tool_duration_ns=tool, **more),
    st.integers(1, 9), st.integers(1, 9), st.integers(0, 99),
    st.fixed_dictionaries({}, optional={"model": st.sampled_from("ab"), "priority": st.integers(-3, 3)}),
)  # fmt: skip
session_lines = st.builds(
    lambda arrival_ns, parts: {"arrival_time_ns": arrival_ns, "sub_requests": parts},
    st.integers(0, 20), st.lists(sub_requests, min_size=1, max_size=3),
)  # fmt: skip


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(flat_lines | session_lines, min_size=1, max_size=6))
def test_files_survive(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    """Any file that is read and written reads as the same workload again."""
    written = LssJsonlSource(write_lines(tmp_path / "in.jsonl", *records)).build(0)
    assert_same(written, round_trip(written, tmp_path))


def columns(n: int, **more: Any) -> Workload:
    """Return a workload of ``n`` equal requests."""
    ones = np.ones(n, dtype=np.int64)
    return Workload(arrival_ns=np.arange(n), prompt_tokens=4 * ones, output_tokens=2 * ones, **more)


def test_token_ids_are_written_as_they_are(tmp_path: Path) -> None:
    """Known token ids stand in the file unchanged, so that it can be used elsewhere."""
    workload = columns(1, contents=TokenContents([array("i", [9, 8, 7, 6, 5, 4])], np.array([6])))
    write_jsonl(workload, tmp_path / "out.jsonl")
    record = json.loads((tmp_path / "out.jsonl").read_text())
    assert record["input_tok_ids"] == [9, 8, 7, 6]
    assert record["output_tok_ids"] == [5, 4]


def test_requests_that_share_nothing_have_no_token_ids(tmp_path: Path) -> None:
    """Distinct contents need no token ids."""
    workload = columns(2, contents=DistinctContents(np.array([6, 6])))
    assert round_trip(workload, tmp_path).contents is None


class HalfShared:
    """A plug-in's contents: the first three tokens of all requests are equal."""

    def block_keys(self, request: int, block_size: int) -> Sequence[int]:
        """Return keys that are equal up to the third token."""
        return [b if (b + 1) * block_size <= 3 else 100 + 10 * request + b for b in range(6 // block_size)]


def test_contents_without_token_ids_survive(tmp_path: Path) -> None:
    """For contents that know only keys, token ids are made up that share alike."""
    workload = columns(3, contents=HalfShared())
    read = round_trip(workload, tmp_path)
    assert {sharing(read, 1)[row, 2] for row in range(3)} == {2}
    assert sharing(read, 1) == sharing(workload, 1)


def test_sessions_without_names_get_free_ones(tmp_path: Path) -> None:
    """A chain without a session id gets a name that no other has."""
    later = np.array([0, 1, RELEASED_LATER, RELEASED_LATER])
    workload = columns(4, parent=np.array([-1, -1, 0, 1]), session_id=["session_0", None, "session_0", None])
    workload.arrival_ns = later
    assert round_trip(workload, tmp_path).session_id == ["session_0", "session_1", "session_0", "session_1"]


def test_what_the_format_cannot_say_is_refused(tmp_path: Path) -> None:
    """A closed loop, two followers of one request and two sessions of one name are refused with the reason."""
    path = tmp_path / "out.jsonl"
    with pytest.raises(InputError, match="a closed loop cannot be written"):
        write_jsonl(build(arrivals={"kind": "closed_loop", "concurrency": 2}), path)
    with pytest.raises(InputError, match="two requests wait for the same one"):
        write_jsonl(columns(3, parent=np.array([-1, 0, 0])), path)
    with pytest.raises(InputError, match="two sessions have the same session_id"):
        write_jsonl(columns(4, parent=np.array([-1, -1, 0, 1]), session_id=["a"] * 4), path)
    assert not path.exists()
    with pytest.raises(InputError, match=r"none.*out.jsonl: cannot be written: No such file"):
        write_jsonl(columns(1), tmp_path / "none" / "out.jsonl")
