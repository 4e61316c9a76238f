"""Paths of --set and --vary."""

from __future__ import annotations

from typing import Any

import pytest

from servetwin.core.errors import InputError
from servetwin.scenario.edits import apply_edits, find_path, parse_edits, parse_variations
from servetwin.scenario.load import load_scenario


def test_pools_are_found_by_name_and_by_number(small: dict[str, Any]) -> None:
    """``cluster.batch.x`` and ``cluster.1.x`` name the same pool, and the given data stays as it is."""
    for pool in ("batch", "1"):
        edited, places = apply_edits(small, {f"cluster.{pool}.engine.max_num_seqs": 7}, "--set")
        assert edited["cluster"][1]["engine"]["max_num_seqs"] == 7
        assert places == {("cluster", 1, "engine", "max_num_seqs"): f"--set cluster.{pool}.engine.max_num_seqs"}
    assert "max_num_seqs" not in small["cluster"][1]["engine"]


def test_mappings_on_the_way_are_made(small: dict[str, Any]) -> None:
    """A key below a part that the scenario leaves out can be set."""
    loaded = load_scenario(small, edits={"front_end.request_us": 5.0, "output.interval_s": 2.0})
    assert loaded.scenario.front_end is not None
    assert loaded.scenario.front_end.request_us == 5.0
    assert loaded.scenario.output.interval_s == 2.0


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("cluster.chatt.replicas", "unknown item 'chatt'; did you mean 'chat'? Allowed: batch, chat"),
        ("cluster.7.replicas", "unknown item '7'"),
        ("seed.x", "seed is 3 and holds no keys"),
        ("cluster.chat.replicas.x.y", "cluster.chat.replicas is 2 and holds no keys"),
    ],
)
def test_paths_that_lead_nowhere(small: dict[str, Any], path: str, message: str) -> None:
    """A path through a pool that does not exist, or through a value, says so and names the option."""
    with pytest.raises(InputError) as caught:
        apply_edits(small, {path: 1}, "--set")
    assert str(caught.value).startswith(f"--set {path}: {message}")


def test_a_wrong_value_names_the_option_not_the_file(small: dict[str, Any]) -> None:
    """An error in an edited value is attributed to the edit."""
    with pytest.raises(InputError) as caught:
        load_scenario(small, edits=parse_edits(["cluster.chat.replicas=-1"], "--set"), option="--set")
    assert str(caught.value).startswith("--set cluster.chat.replicas: given -1: ")


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", ".a=1", "a.=1", ""])
def test_assignments_need_a_path_and_an_equals_sign(text: str) -> None:
    """What is no ``path=value`` is refused with an example."""
    with pytest.raises(InputError, match=r"write path\.to\.key=value"):
        parse_edits([text], "--set")


def test_variations() -> None:
    """Values are typed, paths may be given once, and need a value."""
    assert parse_variations(["a.b=1,2.5,x", "c=[1]"], "--vary") == {"a.b": [1, 2.5, "x"], "c": [[1]]}
    with pytest.raises(InputError, match="varied twice"):
        parse_variations(["a=1", "a=2"], "--vary")
    with pytest.raises(InputError, match="no value is given"):
        parse_variations(["a="], "--vary")


def test_objects_survive_edits(small: dict[str, Any]) -> None:
    """An implementation given from Python is the same object after an edit."""
    router = object()
    edited, _ = apply_edits({**small, "router": router}, {"seed": 5}, "edits")
    assert edited["router"] is router


def test_find_path_stops_where_the_data_ends(small: dict[str, Any]) -> None:
    """A dotted key becomes the path of the data, as far as that goes."""
    assert find_path(small, ["cluster", "batch", "step", "model"]) == ("cluster", 1, "step", "model")
    assert find_path(small, ["cluster", "batch", "engine", "kind"]) == ("cluster", 1, "engine")
    assert find_path(small, ["cluster", "none"]) == ("cluster",)
