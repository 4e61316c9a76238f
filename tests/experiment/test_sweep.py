"""Sweeps: resumed where they stopped, failures in their row, processes beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from servetwin.core.errors import InputError
from servetwin.experiment import sweep
from servetwin.experiment.sweep import Point, Row, run_sweep, sweep_points
from servetwin.experiment.sweep_page import short_names, sweep_page
from servetwin.experiment.sweep_table import read_rows
from servetwin.scenario.load import load_scenario

SCENARIO: dict[str, Any] = {
    "cluster": [{"name": "a", "engine": {"num_gpu_blocks_override": 50}, "step": {"model": "fixed"}}],
    "workload": {
        "kind": "synthetic",
        "requests": 8,
        "arrivals": {"kind": "constant", "rate_per_s": 50},
        "prompt_tokens": 10,
        "output_tokens": 4,
    },
}


def points(**variations: list[Any]) -> list[Point]:
    """Return the points of a small scenario; underscores in names stand for dots."""
    return sweep_points(
        load_scenario(SCENARIO), {path.replace("__", "."): values for path, values in variations.items()}
    )


class Simulations:
    """Counts simulated points, and presses Ctrl-C at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, interrupt_at: int | None = None) -> None:
        self.seen: list[dict[str, Any]] = []
        original = sweep.simulate_point

        def simulate_point(point: Point) -> Row:
            self.seen.append(dict(point.values))
            if len(self.seen) == interrupt_at:
                raise KeyboardInterrupt
            return original(point)

        monkeypatch.setattr(sweep, "simulate_point", simulate_point)


def test_a_stopped_sweep_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C the finished points are on disk, and only the others are simulated the next time."""
    asked = points(seed=[1, 2, 3, 4])
    with monkeypatch.context() as patch:
        Simulations(patch, interrupt_at=3)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(asked, tmp_path)
    assert [row["seed"] for row in read_rows(tmp_path / "sweep.csv")] == ["1", "2"]
    again = Simulations(monkeypatch)
    rows = run_sweep(asked, tmp_path)
    assert [seen["seed"] for seen in again.seen] == [3, 4]
    assert [row["seed"] for row in rows] == ["1", "2", "3", "4"]
    assert read_rows(tmp_path / "sweep.csv") == rows


def test_a_changed_scenario_is_simulated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row counts only for the same scenario, file contents included; other varied paths may share rows."""
    run_sweep(points(seed=[1, 2]), tmp_path)
    counted = Simulations(monkeypatch)
    run_sweep(points(seed=[1, 2], cluster__a__replicas=[1, 2]), tmp_path)
    assert counted.seen == [
        {"seed": 1, "cluster.a.replicas": 2},
        {"seed": 2, "cluster.a.replicas": 2},
    ]


def test_processes_give_the_same_rows(tmp_path: Path) -> None:
    """Two processes give, in the same order, what one gives."""
    asked = points(cluster__a__replicas=[1, 2, 3])
    assert run_sweep(asked, tmp_path / "two", jobs=2) == run_sweep(asked, tmp_path / "one")


def test_a_point_that_fails_has_the_reason_in_its_row(tmp_path: Path) -> None:
    """A point that cannot be simulated does not stop the others; all failing is an error."""
    varied = {"cluster__a__step": [{"model": "fixed"}, {"model": "fixed", "step_ns": 0}]}
    rows = run_sweep(points(**varied), tmp_path)
    assert [bool(row["error"]) for row in rows] == [False, True]
    assert "step_ns must be a whole number" in rows[1]["error"]
    assert "step_ns must be" in sweep_page("x", rows)
    with pytest.raises(InputError, match="no point could be simulated"):
        run_sweep(points(cluster__a__step=[{"model": "fixed", "step_ns": 0}]), tmp_path / "other")


def test_another_table_is_not_overwritten(tmp_path: Path) -> None:
    """A ``sweep.csv`` that is no sweep's table is refused and kept."""
    table = tmp_path / "sweep.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is no sweep's table"):
        run_sweep(points(seed=[1]), tmp_path)
    assert table.read_text() == "a,b\n1,2\n"


def test_too_many_points() -> None:
    """A product of more points than anyone means is refused before it is built."""
    many = list(range(1, 400))
    with pytest.raises(InputError, match="at most 10,000"):
        points(seed=many, cluster__a__replicas=many)


def test_the_page_is_the_same_for_the_same_rows(tmp_path: Path) -> None:
    """The picture depends on the rows alone."""
    rows = run_sweep(points(router=["random", "round_robin"]), tmp_path)
    assert sweep_page("t", rows) == sweep_page("t", read_rows(tmp_path / "sweep.csv"))


def test_lines_are_named_by_what_tells_paths_apart() -> None:
    """A legend has the end of each path, longer where two paths end alike."""
    assert short_names(["seed"]) == {"seed": "seed"}
    assert list(short_names(["cluster.a.replicas", "workload.arrivals.rate_per_s"]).values()) == [
        "replicas", "rate_per_s",
    ]  # fmt: skip
    assert list(short_names(["cluster.a.replicas", "cluster.b.replicas"]).values()) == ["a.replicas", "b.replicas"]
