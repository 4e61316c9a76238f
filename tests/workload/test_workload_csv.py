"""Reading workloads from CSV files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.testing.workload_sources import WorkloadSourceConformance
from servetwin.workload import csv_file
from servetwin.workload.csv_columns import CsvColumns, read_large, read_plain
from servetwin.workload.csv_file import CsvSource

HEADER = "arrival_s,prompt_tokens,output_tokens"


def write(path: Path, *lines: str) -> Path:
    """Write lines to a file."""
    path.write_text("\n".join(lines) + "\n")
    return path


class TestConformance(WorkloadSourceConformance):
    """A file with all columns, out of order."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        rows = [f"{i % 7}.25,{i + 1},{i + 2},r{i},s{i % 3},m,{-i}" for i in range(30)]
        self.path = write(tmp_path / "w.csv", HEADER + ",request_id,session_id,model,priority", *rows)

    def make_source(self) -> CsvSource:
        """Return the reader."""
        return CsvSource(self.path)


def test_rows_become_requests(tmp_path: Path) -> None:
    """A row is a request; seconds become whole nanoseconds, and empty labels None."""
    path = write(
        tmp_path / "w.csv", "model,output_tokens,arrival_s,prompt_tokens,priority", "a,3,0.5,10,", "", ",4,1e1,11,-2"
    )
    workload = CsvSource(path).build(0)
    assert workload.arrival_ns.tolist() == [500_000_000, 10_000_000_000]
    assert workload.prompt_tokens.tolist() == [10, 11]
    assert workload.output_tokens.tolist() == [3, 4]
    assert workload.model == ["a", None]
    assert workload.priority is not None
    assert workload.priority.tolist() == [0, -2]
    assert (workload.request_id, workload.session_id, workload.contents) == (None, None, None)


@pytest.mark.parametrize("small_bytes", [0, 2**20])
def test_unsorted_rows_are_sorted_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_bytes: int) -> None:
    """All columns are sorted by arrival together, ties as in the file, by either reader."""
    monkeypatch.setattr(csv_file, "_SMALL_BYTES", small_bytes)
    path = write(tmp_path / "w.csv", HEADER + ",request_id,priority", "2,1,1,a,5", "1,2,1,b,6", "2,3,1,c,7")
    workload = CsvSource(path).build(0)
    assert workload.request_id == ["b", "a", "c"]
    assert workload.priority is not None
    assert workload.priority.tolist() == [6, 5, 7]
    assert workload.prompt_tokens.tolist() == [2, 1, 3]
    assert workload.notices == [f"{path}: row 2 arrives before the row above it; all were sorted by arrival"]


@pytest.mark.parametrize("small_bytes", [0, 2**20])
def test_limit_counts_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_bytes: int) -> None:
    """Only the first rows count; what stands behind them is not checked."""
    monkeypatch.setattr(csv_file, "_SMALL_BYTES", small_bytes)
    path = write(tmp_path / "w.csv", HEADER, "0,1,1", "1,2,1", "2,-3,1")
    assert len(CsvSource(path, limit=2).build(0)) == 2


BAD_FILES = [
    ("arrival_s,prompt_tokens,output_toks\n0,1,1", ":1: unknown column 'output_toks'; did you mean 'output_tokens'?"),
    ("arrival_s,prompt_tokens\n0,1", ":1: column output_tokens missing"),
    (HEADER + ",model,model\n0,1,1,a,a", ":1: a column is named twice"),
    ("", ":1: column arrival_s, prompt_tokens, output_tokens missing"),
    (HEADER, ": the workload is empty"),
    (HEADER + "\n0,1,1\n0,1", ":3: has 2 values, but there are 3 columns"),
    (HEADER + "\n0,1,1\n\nnan,1,1", ":4: arrival_s is 'nan'; allowed: numbers of 0 to 1000000000"),
    (HEADER + "\ninf,1,1", ":2: arrival_s is 'inf'"),
    (HEADER + "\n-1,1,1", ":2: arrival_s is '-1'"),
    (HEADER + "\n1_0,1,1", ":2: arrival_s is '1_0'"),
    (HEADER + "\n,1,1", ":2: arrival_s is ''"),
    (HEADER + "\n0,1.5,1", ":2: prompt_tokens is '1.5'; allowed: whole numbers of 1 to 8388608"),
    (HEADER + "\n0,1,0", ":2: output_tokens is '0'"),
    (HEADER + "\n0,1,99999999999999999999999", ":2: output_tokens is '99999999999999999999999'"),
    (HEADER + ",request_id\n0,1,1,", ":2: request_id is empty"),
    (HEADER + ",request_id\n0,1,1,a\n0,1,1,a", ": request_id 'a' occurs twice"),
    (HEADER + ",priority\n0,1,1,x", ":2: priority is 'x'"),
    (HEADER + '\n0,1,"1', ":2: not a row of a CSV file"),
]


@pytest.mark.parametrize("small_bytes", [-1, 2**20])
@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_a_bad_file_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_bytes: int, text: str, message: str
) -> None:
    """Whatever is wrong, the error names file, line, what was given and what is allowed, in large files too."""
    monkeypatch.setattr(csv_file, "_SMALL_BYTES", small_bytes)
    path = tmp_path / "w.csv"
    path.write_text(text)
    with pytest.raises(InputError, match="^" + re.escape(f"{path}{message}")):
        CsvSource(path).build(0)


good_rows = st.lists(
    st.tuples(
        st.sampled_from(["0", "2.5", "1e3", "0.1"]), *[st.sampled_from(["1", "7", "44"])] * 2,
        st.sampled_from(["a", "", "NA", '"x,y"', " b"]), st.sampled_from(["0", "-1", "3"]),
    ),
    min_size=1, max_size=4,
)  # fmt: skip
odd_cells = st.sampled_from(
    ["", " 3", "3 ", "nan", "a", '"4"', "0x10", "+5", "8388609", "1,2", "1_0", "1.0", "-1", "07"]
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(good_rows, st.integers(0, 4), st.none() | odd_cells)
def test_both_readers_agree(tmp_path: Path, rows: list[tuple[str, ...]], column: int, odd: str | None) -> None:
    """What the fast reader reads, the plain one reads alike; the fast one leaves all else to it."""
    if odd is not None:
        rows[-1] = (*rows[-1][:column], odd, *rows[-1][column + 1 :])
    path = write(tmp_path / "w.csv", HEADER + ",model,priority", *(",".join(row) for row in rows))
    fast = read_large(path.read_bytes(), None)
    if fast is None:
        assert odd is not None
        return
    plain = read_plain(path, None)
    for name in CsvColumns.__dataclass_fields__:
        one, other = getattr(fast, name), getattr(plain, name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, name


def test_the_fast_reader_reads_a_good_file(tmp_path: Path) -> None:
    """A file without faults is read by pyarrow, so that large files are fast."""
    path = write(tmp_path / "w.csv", HEADER + ",model", "0.5,1,2,a", "1,3,4,")
    columns = read_large(path.read_bytes(), None)
    assert columns is not None
    assert columns.arrival_s.tolist() == [0.5, 1.0]
    assert columns.model == ["a", None]
