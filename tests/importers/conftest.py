"""The files of a deployment to import."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lss_helpers import Deployment


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    """Return the files of a deployment; its profiles are folders without tables, which an import does not open."""
    for model, degrees in (("meta-llama/Llama-3.1-8B", (1, 2)), ("Qwen/Qwen3-32B", (2,))):
        for degree in degrees:
            (tmp_path / "profiles" / "RTXPRO6000" / model / "bf16" / f"tp{degree}").mkdir(parents=True)
    older = tmp_path / "profiles" / "A6000" / "meta-llama" / "Llama-3.1-8B" / "tp1"
    older.mkdir(parents=True)
    (older / "layers.csv").write_text("layer_name,input,latency(ns)\n", encoding="utf-8")
    row = {"input_toks": 4, "output_toks": 2, "arrival_time_ns": 0}
    (tmp_path / "workload.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return Deployment(tmp_path)
