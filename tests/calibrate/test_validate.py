"""servetwin validate: a run against itself, against a slower copy, against a series."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import servetwin
from servetwin.calibrate.compare import Comparison, compare_requests, statistic_of
from servetwin.calibrate.measured import RequestTimes, read_request_csv
from servetwin.calibrate.states import series_of
from servetwin.calibrate.validate import validate
from servetwin.cli.main import app
from servetwin.core.errors import InputError

SCENARIO = {
    "cluster": [
        {"name": "a", "engine": {"num_gpu_blocks_override": 2000}, "step": {"model": "fixed", "step_ns": 10_000_000}}
    ],
    "workload": {
        "kind": "synthetic",
        "requests": 60,
        "arrivals": {"kind": "poisson", "rate_per_s": 20},
        "prompt_tokens": {"kind": "fixed", "tokens": 40},
        "output_tokens": {"kind": "fixed", "tokens": 30},
    },
}


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a small run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    servetwin.simulate(SCENARIO).write(folder, report=False)
    return folder


def slower(run_directory: Path, path: Path, factor: float) -> Path:
    """Write the run's requests with all latencies multiplied, and return the path."""
    with (run_directory / "requests.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        arrival = float(row["arrival_s"])
        for name in ("first_token_s", "finish_s"):
            row[name] = str(arrival + factor * (float(row[name]) - arrival))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_run_against_itself_has_no_errors(run_directory: Path) -> None:
    """Every metric and statistic is equal."""
    rows = validate(run_directory, run_directory / "requests.csv").rows
    assert {row.metric for row in rows} >= {"ttft", "tpot", "e2e", "throughput", "requests", "output tokens"}
    assert all(row.error_percent == 0 for row in rows)


def test_errors_are_simulated_less_measured(run_directory: Path, tmp_path: Path) -> None:
    """A measured run with twice the latencies is simulated 50 % too fast in each of them."""
    rows = validate(run_directory, slower(run_directory, tmp_path / "m.csv", 2)).rows
    errors = {(row.metric, row.statistic): row.error_percent for row in rows}
    for metric in ("ttft", "tpot", "e2e"):
        for statistic in ("mean", "p50", "p90", "p95", "p99"):
            assert errors[metric, statistic] == pytest.approx(-50, abs=1e-3)


def test_the_clocks_need_not_agree(run_directory: Path, tmp_path: Path) -> None:
    """Both sides count from their first arrival."""
    text = (run_directory / "requests.csv").read_text(encoding="utf-8")
    moved = read_request_csv(run_directory / "requests.csv").shifted(1000.0)
    lines = ["arrival_s,first_token_s,finish_s,prompt_tokens,output_tokens"]
    columns = (moved.arrival_s, moved.first_token_s, moved.finish_s, moved.prompt_tokens, moved.output_tokens)
    lines += [",".join(map(repr, map(float, row))) for row in zip(*columns, strict=True)]
    (tmp_path / "m.csv").write_text("\n".join(lines), encoding="utf-8")
    assert text
    rows = validate(run_directory, tmp_path / "m.csv").rows
    assert all(abs(row.error_percent) < 1e-4 for row in rows)


def test_a_series_is_compared_with_the_timeline(run_directory: Path, tmp_path: Path) -> None:
    """The run's own timeline, renamed by the ends of its intervals, agrees with itself."""
    with (run_directory / "timeline.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["time_s\tthroughput\trunning\twaiting"]
    lines += [
        f"{float(row['time_s']) + 1}\t{row['output_tokens_per_s']}\t{row['running']}\t{row['waiting']}" for row in rows
    ]
    (tmp_path / "m.tsv").write_text("\n".join(lines), encoding="utf-8")
    found = {(row.metric, row.statistic): row for row in validate(run_directory, tmp_path / "m.tsv").rows}
    assert found["throughput", "WAPE 3 s"].simulated == pytest.approx(0, abs=1e-9)
    assert found["tokens out", "90%"].error_percent == pytest.approx(0, abs=1e-9)
    assert found["tokens", "total"].simulated == 60 * 30
    assert {metric for metric, _ in found} == {"tokens out", "tokens", "throughput", "running", "waiting"}


def test_the_command_prints_errors_and_writes_an_offline_page(run_directory: Path, tmp_path: Path) -> None:
    """One self-contained file with the charts that were asked for; --json prints JSON alone."""
    measured = slower(run_directory, tmp_path / "m.csv", 1.1)
    arguments = ["validate", str(run_directory), str(measured), "-o", str(tmp_path / "v")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "-9.09 %" in result.stdout
    page = (tmp_path / "v" / "validation.html").read_text(encoding="utf-8")
    assert 'src="http' not in page
    for name in ("time-output_tokens_per_s", "time-running", "time-waiting", "cdf-ttft", "cdf-tpot", "cdf-e2e"):
        assert f'id="{name}"' in page
    rows = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert {"metric", "statistic", "unit", "measured", "simulated", "error_percent"} == set(rows[0])
    table = (tmp_path / "v" / "validation.csv").read_text(encoding="utf-8").splitlines()
    assert len(table) == len(rows) + 1


def test_a_directory_without_a_run_is_refused(tmp_path: Path, run_directory: Path) -> None:
    """With the file that is missing; a series without common columns too."""
    with pytest.raises(InputError, match=r"requests\.csv: no such file"):
        validate(tmp_path, run_directory / "requests.csv")
    (tmp_path / "m.csv").write_text("time_s,gpu_mem_mb\n1,2\n2,3\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column that the run's timeline has too"):
        validate(run_directory, tmp_path / "m.csv")


def test_states_of_a_log() -> None:
    """One request: waiting until its first token, running until its last, tokens spread between."""
    times = RequestTimes(*(np.array([value]) for value in (0.0, 1.0, 5.0)), np.array([3]), np.array([9]))
    series = series_of(times)
    assert series.columns["output_tokens_per_s"].tolist() == [1, 2, 2, 2, 2]
    assert series.columns["waiting"].tolist() == [0, 0, 0, 0, 0]
    assert series.columns["running"].tolist() == [1, 1, 1, 1, 0]


def test_statistics_are_linear_percentiles() -> None:
    """As everywhere in servetwin; nothing has no statistics."""
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert statistic_of(values, "p50") == 2.5
    assert statistic_of(values, "mean") == 2.5
    assert np.isnan(statistic_of(values[:0], "mean"))
    assert Comparison("a", "b", "", 0.0, 1.0).error_text == "–"
    times = RequestTimes(values, values + 1, values + 2, np.ones(4, dtype=np.int64), np.ones(4, dtype=np.int64))
    tpot = [row for row in compare_requests(times, times) if row.metric == "tpot"]
    assert all(row.measured_text == "–" for row in tpot)
