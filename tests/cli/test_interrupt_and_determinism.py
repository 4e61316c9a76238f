"""Ctrl-C keeps what was finished; equal runs write equal bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import SCENARIO, Command
from numpy.typing import NDArray

from servetwin.cluster.base import ClusterView, RequestView, routers

SHARED_PREFIXES = SCENARIO.replace(
    "prompt_tokens: {", "system_prompts: {count: 3, tokens: 64}, prompt_tokens: {"
).replace("router: least_outstanding", "router: {policy: prefix_aware}")


class _Impatient:
    """Presses Ctrl-C when the twentieth request arrives."""

    reads = frozenset({"outstanding"})

    def __init__(self, *, seed: int = 0) -> None:
        self._seen = 0

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        self._seen += 1
        if self._seen == 20:
            signal.raise_signal(signal.SIGINT)
        return int(candidates[0])


def test_an_interrupted_run_is_kept_and_marked(servetwin: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 130, the finished requests on disk, the rest unfinished, and "incomplete" everywhere."""
    monkeypatch.setitem(routers._factories, "impatient", _Impatient)
    done = servetwin("run", "s.yaml", "-o", "out", "--set", "router=impatient")
    assert done.code == 130
    assert "INCOMPLETE" in done.out
    summary = json.loads(Path("out/summary.json").read_text())
    states = summary["requests"]["by_state"]
    assert summary["incomplete"] is True
    assert json.loads(Path("out/run.json").read_text())["incomplete"] is True
    assert 0 < states["completed"] < 20
    assert states["completed"] + states["unfinished"] == 40
    assert "Incomplete" in Path("out/report.html").read_text()


def run_in_new_process(folder: Path, hash_seed: str) -> dict[str, bytes]:
    """Run the scenario in a process of its own and return the content of its files by name."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-m", "servetwin", "run", "s.yaml", "-o", f"out-{hash_seed}", "--token-times", "--json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    files = {path.name: path.read_bytes() for path in (folder / f"out-{hash_seed}").iterdir()}
    return files | {"stdout": done.stdout}


def test_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    """With the same seed and another hash seed, all files but ``run.json`` are equal, byte for byte."""
    (tmp_path / "s.yaml").write_text(SHARED_PREFIXES, encoding="utf-8")
    first, second = run_in_new_process(tmp_path, "1"), run_in_new_process(tmp_path, "2")
    assert set(first) == set(second) > {"report.html", "requests.parquet", "token_times.csv", "resolved.yaml"}
    assert [name for name in first if first[name] != second[name]] == ["run.json"]


def test_another_seed_gives_another_run(servetwin: Command) -> None:
    """The seed matters: it changes the arrivals and the hash."""
    first, second = (
        json.loads(servetwin("run", "s.yaml", "--no-report", "--json", "--seed", seed).out) for seed in ("1", "2")
    )
    assert first["scenario_hash"] != second["scenario_hash"]
    assert first["ttft_s"] != second["ttft_s"]
