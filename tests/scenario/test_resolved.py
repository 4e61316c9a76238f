"""The hash of a scenario, and what is written down of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from servetwin.scenario.build import build
from servetwin.scenario.load import load_scenario
from servetwin.scenario.resolved import resolved_yaml, scenario_hash


def with_file(small: dict[str, Any], folder: Path, rows: str = "0,10,5\n") -> dict[str, Any]:
    """Write a workload's file and return the scenario that names it."""
    folder.mkdir(exist_ok=True)
    (folder / "w.csv").write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")
    return small | {"workload": {"kind": "csv", "path": "w.csv"}}


def hash_of(data: dict[str, Any], folder: Path | None = None) -> str:
    """Return the hash of a scenario."""
    return scenario_hash(load_scenario(data, folder=folder))


def test_defaults_and_order_do_not_change_the_hash(small: dict[str, Any]) -> None:
    """Saying a default, or saying keys in another order, is the same scenario."""
    said = dict(reversed(small.items())) | {"output": {"interval_s": 1.0}}
    assert hash_of(said) == hash_of(small)
    assert hash_of(small | {"seed": 4}) != hash_of(small)


def test_files_count_by_content_not_by_place(small: dict[str, Any], tmp_path: Path) -> None:
    """The same file elsewhere gives the same hash, another content another one."""
    data = with_file(small, tmp_path / "a")
    first = hash_of(data, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert hash_of(data, tmp_path / "b") == first
    with_file(small, tmp_path / "b", "0,10,6\n")
    assert hash_of(data, tmp_path / "b") != first


def test_resolved_yaml_is_the_same_scenario(small: dict[str, Any]) -> None:
    """What is written down has all defaults and the facts, and reads back as the same scenario."""
    deployment = build(load_scenario(small))
    data = yaml.safe_load(resolved_yaml(deployment))
    again = load_scenario(data)
    assert again.scenario == deployment.scenario
    assert data["resolved"]["scenario_hash"] == scenario_hash(again)
    assert data["resolved"]["pools"]["chat"]["kv_tokens"] == 199 * 16
    assert data["cluster"][0]["engine"]["max_num_batched_tokens"] == 2048
