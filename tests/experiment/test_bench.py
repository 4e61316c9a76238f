"""The bench: a small part of it runs here, so that `make bench` cannot rot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from servetwin.experiment.bench import main
from servetwin.experiment.bench_cases import cases
from servetwin.scenario.load import load_scenario


def test_the_quick_part_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each case gives a line for the reader and a record with speed and memory."""
    assert main(["--quick", "--only", "one instance", "-o", str(tmp_path / "bench.json")]) == 0
    (record,) = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert record["requests"] == 20_000
    assert record["requests_per_cpu_s"] > 2_000  # far below what any machine does: it must only not be broken
    assert record["steps"] > 10_000
    assert 20 < record["peak_memory_mb"] < 1_000
    assert "requests/s" in capsys.readouterr().out


def test_every_case_is_a_scenario_that_can_be_read() -> None:
    """No case of the long bench breaks before its turn comes."""
    for case in cases(None, quick=False):
        assert load_scenario(case.scenario()).scenario.workload is not None
