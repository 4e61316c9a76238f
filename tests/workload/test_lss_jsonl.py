"""Reading LLMServingSim's workload files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workload_helpers import flat, shared_prefix_lengths, sub, write_lines

from servetwin.core.errors import InputError
from servetwin.testing.workload_sources import WorkloadSourceConformance
from servetwin.workload.base import NO_PARENT, RELEASED_LATER, Workload
from servetwin.workload.lss_jsonl import LssJsonlSource


def read(path: Path, limit: int | None = None) -> Workload:
    """Return the workload of a file."""
    return LssJsonlSource(path, limit).build(0)


class TestConformance(WorkloadSourceConformance):
    """A file of requests and sessions, with and without token ids."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = write_lines(
            tmp_path / "w.jsonl",
            flat(7, 4, 2, input_tok_ids=[1, 2, 3, 4], output_tok_ids=[5, 6]),
            {"arrival_time_ns": 3, "sub_requests": [sub(tool_duration_ns=5), sub(5, 1), sub(6, 1)]},
            *(flat(10 + i, 5, 2, input_tok_ids=[1, 2, 3, 4, i]) for i in range(20)),
        )

    def make_source(self) -> LssJsonlSource:
        """Return the reader."""
        return LssJsonlSource(self.path)


def test_flat_requests(tmp_path: Path) -> None:
    """A flat line is a request at its time; labels are kept, and columns nobody uses are absent."""
    path = write_lines(tmp_path / "w.jsonl", flat(5, 10, 3, model="a", priority=2), "", flat(9, 11, 4, session_id="s"))
    workload = read(path)
    assert workload.arrival_ns.tolist() == [5, 9]
    assert workload.prompt_tokens.tolist() == [10, 11]
    assert workload.output_tokens.tolist() == [3, 4]
    assert workload.model == ["a", None]
    assert workload.session_id == [None, "s"]
    assert workload.priority is not None
    assert workload.priority.tolist() == [2, 0]
    assert (workload.request_id, workload.parent, workload.contents) == (None, None, None)


def test_sessions_are_chains(tmp_path: Path) -> None:
    """A session's later requests wait for the one before and its tool; flat lines may stand between."""
    session = {"session_id": "x", "arrival_time_ns": 20, "sub_requests": [sub(1, tool_duration_ns=7), sub(2), sub(3)]}
    workload = read(write_lines(tmp_path / "w.jsonl", session, flat(10, 9)))
    assert workload.prompt_tokens.tolist() == [9, 1, 2, 3]
    assert workload.arrival_ns.tolist() == [10, 20, RELEASED_LATER, RELEASED_LATER]
    assert workload.session_id == [None, "x", "x", "x"]
    assert workload.parent is not None
    assert workload.delay_ns is not None
    assert workload.parent.tolist() == [NO_PARENT, NO_PARENT, 1, 2]
    assert workload.delay_ns.tolist() == [0, 0, 7, 0]


def test_session_labels_hold_for_its_requests(tmp_path: Path) -> None:
    """Model and priority of a session hold for requests that have none of their own."""
    session = {"arrival_time_ns": 0, "model": "m", "priority": 3, "sub_requests": [sub(), sub(model="n", priority=0)]}
    workload = read(write_lines(tmp_path / "w.jsonl", session))
    assert workload.session_id == ["session_0", "session_0"]
    assert workload.model == ["m", "n"]
    assert workload.priority is not None
    assert workload.priority.tolist() == [3, 0]


def test_unsorted_arrivals_are_sorted_and_said(tmp_path: Path) -> None:
    """Requests come in order of arrival, ties in order of the file, and a notice names the first line out of order."""
    workload = read(write_lines(tmp_path / "w.jsonl", flat(5, 1), flat(9, 2), flat(4, 3), flat(5, 4)))
    assert workload.prompt_tokens.tolist() == [3, 1, 4, 2]
    assert len(workload.notices) == 1
    assert "w.jsonl:3: arrives before the line above it" in workload.notices[0]


def test_limit_counts_lines(tmp_path: Path) -> None:
    """The limit counts lines: a session is one, and what stands behind is not even checked."""
    session = {"arrival_time_ns": 1, "sub_requests": [sub(), sub()]}
    path = write_lines(tmp_path / "w.jsonl", flat(0), session, "no JSON")
    assert len(read(path, limit=2)) == 3


def test_empty_sessions_are_skipped_and_said(tmp_path: Path) -> None:
    """A session without requests is left out, with a notice."""
    workload = read(write_lines(tmp_path / "w.jsonl", {"arrival_time_ns": 1, "sub_requests": []}, flat(2)))
    assert len(workload) == 1
    assert "1 sessions without requests skipped (line 1)" in workload.notices[0]


def test_generated_tokens_can_be_hit_where_they_are_known(tmp_path: Path) -> None:
    """A later prompt shares prompt and answer of an earlier request, only the prompt where the answer is unknown."""
    turn = [1, 2, 3, 4]
    path = write_lines(
        tmp_path / "w.jsonl",
        flat(0, 4, 4, input_tok_ids=turn, output_tok_ids=[5, 6, 7, 8]),
        flat(1, 9, 1, input_tok_ids=[*turn, 5, 6, 7, 8, 9]),
        flat(2, 4, 4, input_tok_ids=turn),
        flat(3, 9, 1),
    )
    workload = read(path)
    assert [shared_prefix_lengths(workload, 1, other, 2) for other in (0, 2, 3)] == [4, 2, 0]


def test_output_ids_alone_are_not_used(tmp_path: Path) -> None:
    """Without prompt ids nothing is known of a prefix; a notice says so."""
    workload = read(write_lines(tmp_path / "w.jsonl", flat(0, 4, 2, output_tok_ids=[1, 2])))
    assert workload.contents is None
    assert "output_tok_ids without input_tok_ids" in workload.notices[0]


GOOD = flat(0, 2, 1, input_tok_ids=[1, 2])
SESSION = {"session_id": "a", "arrival_time_ns": 0, "sub_requests": [sub()]}

BAD_LINES: list[tuple[Any, str]] = [
    ('{"input_toks": 3, "output', "not a JSON object"),
    ('{"input_toks": NaN, "output_toks": 1, "arrival_time_ns": 0}', "NaN is no number"),
    ('{"input_toks": 1, "output_toks": 1, "arrival_time_ns": Infinity}', "Infinity is no number"),
    ("[" * 100_000, "not a request or a session"),
    ("1" * 5000, "not a request or a session"),
    ("[1, 2]", "must be a JSON object, not [1, 2]"),
    ({"output_toks": 1, "arrival_time_ns": 0}, "input_toks is missing"),
    ({"input_toks": 1, "output_toks": 1}, "arrival_time_ns is missing"),
    (flat(-1), "arrival_time_ns is -1; allowed: whole numbers of 0 to"),
    (flat(10**30), "arrival_time_ns is 1000000000000000000000000000000; allowed"),
    (flat(0, 0), "input_toks is 0; allowed: whole numbers of 1 to"),
    (flat(0, 10**9), "input_toks is 1000000000; allowed"),
    (flat(0, 1, 0), "output_toks is 0"),
    (flat(0, 1.5), "input_toks is 1.5"),  # type: ignore[arg-type]
    (flat(0, "7"), 'input_toks is "7"'),  # type: ignore[arg-type]
    (flat(0, True), "input_toks is true"),
    (flat(0, input_tokens=3), "unknown key 'input_tokens'; did you mean 'input_toks'?"),
    (flat(0, 3, 1, input_tok_ids=[1, 2]), "input_tok_ids has 2 tokens, but input_toks is 3"),
    (flat(0, 1, 2, output_tok_ids=[1]), "output_tok_ids has 1 tokens, but output_toks is 2"),
    (flat(0, 2, 1, input_tok_ids=[1, -2]), "input_tok_ids has -2; allowed"),
    (flat(0, 2, 1, input_tok_ids=[1, 1.0]), "input_tok_ids has 1.0; allowed"),
    (flat(0, 2, 1, input_tok_ids=[1, True]), "input_tok_ids has true; allowed"),
    (flat(0, 2, 1, input_tok_ids=[1, 2**31]), "input_tok_ids has 2147483648; allowed"),
    (flat(0, 2, 1, input_tok_ids="12"), "input_tok_ids must be a list"),
    (flat(0, model=""), 'model is ""; it must be a text'),
    (flat(0, priority="high"), 'priority is "high"'),
    (SESSION, "session_id 'a' is taken by line 1"),
    ({"arrival_time_ns": 0, "sub_requests": {}}, "sub_requests must be a list"),
    ({"arrival_time_ns": 0, "sub_requests": [3]}, "sub_requests[0]: must be a JSON object, not 3"),
    ({"arrival_time_ns": 0, "sub_requests": [sub(), sub(-1)]}, "sub_requests[1]: input_toks is -1"),
    ({"arrival_time_ns": 0, "sub_requests": [sub(tool_duration_ns=-1)]}, "sub_requests[0]: tool_duration_ns is -1"),
    ({"arrival_time_ns": 0, "sub_requests": [sub(tool_ns=1)]}, "unknown key 'tool_ns'"),
    ({"sub_requests": [sub()]}, "arrival_time_ns is missing"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, message: str) -> None:
    """Whatever is wrong with a line, the error names file, line, what was given and what is allowed."""
    path = write_lines(tmp_path / "w.jsonl", SESSION, GOOD, line, GOOD)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:3: ")


def test_request_ids_are_unique(tmp_path: Path) -> None:
    """A request id that is taken is refused, with the line that has it."""
    path = write_lines(tmp_path / "w.jsonl", flat(0, request_id="r"), flat(1, request_id="r"))
    with pytest.raises(InputError, match=r"w.jsonl:2: request_id 'r' is taken by .*w.jsonl:1"):
        read(path)


@pytest.mark.parametrize("text", ["", "\n\n", '{"arrival_time_ns": 0, "sub_requests": []}\n'])
def test_an_empty_workload_is_refused(tmp_path: Path, text: str) -> None:
    """A file without a request is an error."""
    path = tmp_path / "w.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match="the workload is empty"):
        read(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder, binary data and a broken gzip file are errors that name the file."""
    (tmp_path / "binary.jsonl").write_bytes(b'{"a": 1}\n\xff\xfe')
    (tmp_path / "broken.jsonl.gz").write_bytes(b"no gzip")
    for name, message in [
        ("none.jsonl", "no such file"),
        (".", "cannot be read"),
        ("binary.jsonl", r"binary.jsonl:2: is not UTF-8"),
        ("broken.jsonl.gz", "cannot be read"),
    ]:
        with pytest.raises(InputError, match=message):
            read(tmp_path / name)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 10_000))
def test_a_truncated_file_is_an_error(tmp_path: Path, cut: int) -> None:
    """A file that ends within its last line is refused, wherever it was cut."""
    text = json.dumps(GOOD) + "\n" + json.dumps(flat(3, 2, 1, input_tok_ids=[3, 4]))
    last = text.index("\n") + 1
    path = tmp_path / "w.jsonl"
    path.write_text(text[: last + 1 + cut % (len(text) - last - 1)])
    with pytest.raises(InputError, match=r"w.jsonl:2: .*was it cut off"):
        read(path)


short = st.text("ab\x00é", max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats() | short,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short, inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from([*flat(0), "input_tok_ids", "output_tok_ids", "sub_requests", "session_id", "priority", "modle"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(keys, json_values, max_size=7))
def test_any_object_is_read_or_refused(tmp_path: Path, record: dict[str, Any]) -> None:
    """Whatever a line holds, it becomes a request or an InputError with its place, never another exception."""
    path = write_lines(tmp_path / "w.jsonl", flat(0), record)
    try:
        workload = read(path)
    except InputError as error:
        where = error.where
    else:
        where = f"{path}:2" if len(workload) else None
    assert where is not None
    assert where.startswith(f"{path}:2")
