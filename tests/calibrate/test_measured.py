"""Reading measured data: formats, clocks, errors with lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from servetwin.calibrate.measured import RequestTimes, Series, read_measured
from servetwin.core.errors import InputError

BENCH = {
    "request_id": "b",
    "input_toks": 3,
    "output_toks": 5,
    "arrival_time": 1.7e9,
    "queued_ts": 10.0,
    "first_token_ts": 10.5,
    "last_token_ts": 12.5,
}


def written(path: Path, text: str) -> Path:
    """Write a file and return its path."""
    path.write_text(text, encoding="utf-8")
    return path


def requests_of(path: Path) -> RequestTimes:
    """Return a per-request log."""
    times = read_measured(path)
    assert isinstance(times, RequestTimes)
    return times


def test_a_bench_log_is_anchored_at_the_queue(tmp_path: Path) -> None:
    """Its arrival_time is of another clock; on the same clock it is the anchor."""
    times = requests_of(written(tmp_path / "r.jsonl", json.dumps(BENCH) + "\n\n"))
    assert (times.ttft_s.tolist(), times.e2e_s.tolist(), times.tpot_s.tolist()) == ([0.5], [2.5], [0.5])
    same_clock = requests_of(written(tmp_path / "s.jsonl", json.dumps(BENCH | {"arrival_time": 9.0})))
    assert same_clock.ttft_s.tolist() == [1.5]


def test_one_token_outputs_have_no_tpot(tmp_path: Path) -> None:
    """They count for the other latencies."""
    rows = [BENCH, BENCH | {"output_toks": 1, "last_token_ts": 10.5}]
    times = requests_of(written(tmp_path / "r.jsonl", "\n".join(map(json.dumps, rows))))
    assert (len(times.tpot_s), len(times.ttft_s)) == (1, 2)


def test_a_request_csv_is_read_without_what_did_not_finish(tmp_path: Path) -> None:
    """Rejected and unfinished requests have no times."""
    header = "request_id,arrival_s,first_token_s,finish_s,prompt_tokens,output_tokens"
    text = "\n".join([header, "a,0,1,2,3,4", "b,0,,,3,4", "c,1,2,nan,3,4"])
    times = requests_of(written(tmp_path / "r.csv", text))
    assert times.arrival_s.tolist() == [0]
    assert times.output_tokens.tolist() == [4]


def test_series_know_several_names_of_their_columns(tmp_path: Path) -> None:
    """Of LSS's bench, of the reference series, and our own; percent become shares."""
    bench = read_measured(written(tmp_path / "t.csv", "t,gen_throughput,running\n1,10,2\n2,20,3\n"))
    reference = read_measured(written(tmp_path / "t.tsv", "time_s\tthroughput\tprefix_hit_pct\n0\t0\t0\n1\t5\t25\n"))
    assert isinstance(bench, Series)
    assert isinstance(reference, Series)
    assert bench.columns["output_tokens_per_s"].tolist() == [10, 20]
    assert bench.columns["running"].tolist() == [2, 3]
    assert np.allclose(reference.columns["prefix_hit_rate"], [0, 0.25])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.jsonl", json.dumps(BENCH) + "\n{}\n", "r.jsonl:2"),
        ("r.jsonl", "", "no completed request"),
        ("r.jsonl", json.dumps(BENCH | {"first_token_ts": 9.0}), "must arrive, then answer, then finish"),
        ("r.jsonl", '{"input_toks": 1', "r.jsonl:1"),
        ("r.csv", "a,b\n1,2\n", "neither a per-request log"),
        ("t.csv", "time_s,throughput\n1,x\n", "t.csv:2 throughput: a number is needed"),
        ("t.csv", "time_s,throughput\n1,1\n1,2\n", "ascending"),
        ("t.csv", "time_s,colour\n1,1\n", "no column of"),
        ("t.csv", "time_s,throughput\n1,inf\n2,1\n", "finite"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    """What was given, where, and what is allowed."""
    with pytest.raises(InputError) as caught:
        read_measured(written(tmp_path / name, text))
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_a_missing_file_says_what_to_give(tmp_path: Path) -> None:
    """A log or a series."""
    with pytest.raises(InputError, match="per-request log"):
        read_measured(tmp_path / "absent.csv")
