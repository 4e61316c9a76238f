"""The result and the files of a run's directory."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from servetwin.core.errors import InputError
from servetwin.metrics.files import write_csv
from servetwin.metrics.options import MetricOptions
from servetwin.scenario.result import Result, RunInfo
from servetwin.testing.outcomes import make_outcome

FILES = [
    "requests.csv",
    "requests.parquet",
    "resolved.yaml",
    "resources.csv",
    "run.json",
    "summary.json",
    "timeline.csv",
]

REQUEST_COLUMNS = (
    "request_id,session_id,model,instance,state,reason,arrival_s,first_token_s,finish_s,prompt_tokens,output_tokens,"
    "cached_tokens,recomputed_tokens,preemptions,queue_s,ttft_s,tpot_s,e2e_s,prefill_s,decode_s,preempted_s"
)


def result(seed: int = 4, end_ns: int | None = None) -> Result:
    """Return the result of a random outcome."""
    return Result(make_outcome(seed, end_ns=end_ns).outcome, MetricOptions(), RunInfo(resolved_yaml="seed: 4\n"))


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_equal_runs_write_equal_files(tmp_path: Path) -> None:
    """Two equal runs differ in nothing but run.json; all files are there."""
    first = result().write(tmp_path / "a", token_times=True)
    second = result().write(tmp_path / "b", token_times=True)
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted([*FILES, "report.html", "token_times.csv"])
    for name in names:
        if name != "run.json":
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_files_that_are_not_wanted_are_removed(tmp_path: Path) -> None:
    """A report or token times of an earlier run do not stay beside the files of a new one."""
    result().write(tmp_path, token_times=True)
    result().write(tmp_path, report=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_requests_csv_has_the_documented_columns_and_formats(tmp_path: Path) -> None:
    """Columns stand in their order; seconds have nine decimals; what has not happened is empty."""
    made = make_outcome(4)
    Result(made.outcome).write(tmp_path, report=False)
    text = (tmp_path / "requests.csv").read_text()
    assert text.splitlines()[0] == REQUEST_COLUMNS
    log = made.outcome.requests
    for row, entry in enumerate(rows(tmp_path / "requests.csv")):
        assert entry["request_id"] == str(row)
        assert entry["arrival_s"] == f"{log.arrival_ns[row] // 10**9}.{log.arrival_ns[row] % 10**9:09d}"
        rejected = entry["state"] == "rejected"
        assert bool(entry["reason"]) == rejected
        assert (entry["finish_s"] == "") == rejected
        assert (entry["tpot_s"] == "") == (rejected or entry["output_tokens"] == "1")


def test_parquet_holds_what_the_csv_holds(tmp_path: Path) -> None:
    """Both request files have the same columns and values; nulls are empty fields."""
    result().write(tmp_path, report=False)
    table = pq.read_table(tmp_path / "requests.parquet")
    entries = rows(tmp_path / "requests.csv")
    assert ",".join(table.column_names) == REQUEST_COLUMNS
    for name in table.column_names:
        for value, text in zip(table[name].to_pylist(), (entry[name] for entry in entries), strict=True):
            if isinstance(value, float):
                assert float(text) == pytest.approx(value, abs=1e-9)
            else:
                assert text == ("" if value is None else str(value))


def test_token_times_file_lists_every_token(tmp_path: Path) -> None:
    """The file has one row per token, in the order of the requests."""
    made = make_outcome(4)
    Result(made.outcome).write(tmp_path, report=False, token_times=True)
    expected = [(str(row), t) for row, times in enumerate(made.token_times_ns) for t in times]
    got = [(entry["request_id"], round(float(entry["time_s"]) * 1e9)) for entry in rows(tmp_path / "token_times.csv")]
    assert got == expected
    assert Result(made.outcome).token_times(7).tolist() == made.token_times_ns[7]


def test_an_interrupted_run_is_marked_everywhere(tmp_path: Path) -> None:
    """The summary, run.json and the report say that a run is incomplete, and other runs do not."""
    cut = result(end_ns=10**9).write(tmp_path / "cut")
    whole = result().write(tmp_path / "whole")
    for folder, incomplete in ((cut, True), (whole, False)):
        assert json.loads((folder / "summary.json").read_text())["incomplete"] is incomplete
        assert json.loads((folder / "run.json").read_text())["incomplete"] is incomplete
        assert ("The run was interrupted" in (folder / "report.html").read_text()) is incomplete


def test_names_with_commas_survive(tmp_path: Path) -> None:
    """Commas, quotes and line breaks in names are quoted."""
    names = np.array(['a,"b"\nc', "plain", None], dtype=object)
    write_csv(tmp_path / "x.csv", [{"request_id": names, "n": np.arange(3)}])
    assert [entry["request_id"] for entry in rows(tmp_path / "x.csv")] == ['a,"b"\nc', "plain", ""]


def test_pandas_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pandas, to_pandas says how to install it; a table that does not exist is named with the nearest."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"servetwin\[pandas\]"):
        result().to_pandas()
    with pytest.raises(InputError, match="did you mean 'timeline'"):
        result().to_pandas("timelines")  # type: ignore[arg-type]


def test_notebook_view_escapes_and_shows_latencies() -> None:
    """The view of a result in a notebook is a table with the latencies."""
    view = result()._repr_html_()
    assert "TTFT" in view
    assert "<table>" in view
    assert repr(result()).startswith("<Result: ")
