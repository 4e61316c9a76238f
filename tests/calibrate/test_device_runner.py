"""Measuring point by point on a device that is made up: what is kept, what is skipped, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from servetwin.calibrate.device_profile import Point, device_points, profile_device, read_device_profile
from servetwin.calibrate.device_profile.header import Header
from servetwin.calibrate.device_profile.points import point_work
from servetwin.calibrate.device_profile.runner import NotMeasurable, Reading, Task
from servetwin.calibrate.device_profile.sampling import Plan
from servetwin.calibrate.device_profile.torch_timing import eager_run, graph_run, replay_run
from servetwin.core.errors import InputError

PLAN = Plan(warm_up_runs=1, warm_up_s=0, min_samples=3, min_s=0, max_samples=3)
POINTS = device_points("cuda", quick=True, operators=["gemm", "power"], formats=["bf16"])


class MadeUpDevice:
    """Takes a second per TFLOP; four calls at once; large points do not fit; stops after some points."""

    def __init__(self, stop_after: int = 10**6, **conditions: str) -> None:
        self.header = Header("Made up", "cuda", None, {"torch": "2.13.0", **conditions})
        self.prepared: list[Point] = []
        self.released = 0
        self._stop_after = stop_after

    def prepare(self, point: Point) -> Task | Reading:
        """Return a task whose run takes four calls' time."""
        if len(self.prepared) == self._stop_after:
            raise KeyboardInterrupt
        self.prepared.append(point)
        if point.operator == "power":
            return Reading([40.0, 50.0, 60.0], "none")
        if point.number("m") == 2048:
            raise NotMeasurable("out of memory,\nalas")
        return Task(lambda: 4 * point_work(point).flops / 1e12, 4, "made_up")

    def release(self) -> None:
        """Count."""
        self.released += 1


def test_times_are_of_one_call_in_microseconds(tmp_path: Path) -> None:
    """A run of several calls is divided by them; readings are taken as they are."""
    device = MadeUpDevice()
    profile = profile_device(device, tmp_path / "new", POINTS, PLAN)
    for row in profile.rows["gemm"]:
        assert row.statistics.median == pytest.approx(point_work(row.point).flops / 1e6, rel=1e-5)
        assert row.statistics.samples == 3
    assert profile.rows["power"][0].statistics.median == 50
    assert device.released == len(POINTS)


def test_what_cannot_be_measured_is_noted(tmp_path: Path) -> None:
    """A point that the device refuses stands with its reason, and the others are measured."""
    profile = profile_device(MadeUpDevice(), tmp_path, POINTS, PLAN)
    assert set(profile.not_measured.values()) == {"out of memory, alas"}
    assert profile.done() == set(POINTS)


def test_a_stopped_profile_goes_on(tmp_path: Path) -> None:
    """What is there is not measured again, and the end is the same as without the stop."""
    first, second, whole = MadeUpDevice(stop_after=4), MadeUpDevice(), MadeUpDevice()
    with pytest.raises(KeyboardInterrupt):
        profile_device(first, tmp_path / "a", POINTS, PLAN)
    told: list[int] = []
    profile = profile_device(second, tmp_path / "a", POINTS, PLAN, progress=told.append)
    assert second.prepared == POINTS[4:]
    assert told == list(range(1, len(POINTS) + 1))
    assert profile == profile_device(whole, tmp_path / "b", POINTS, PLAN)


@pytest.mark.parametrize("change", [{"torch": "2.14.0"}, {"device": "Other"}])
def test_another_device_needs_another_folder(tmp_path: Path, change: dict[str, str]) -> None:
    """Times of two devices, or of two versions of PyTorch, never come into one table."""
    profile_device(MadeUpDevice(), tmp_path, POINTS[:1], PLAN)
    other = MadeUpDevice(**{key: value for key, value in change.items() if key == "torch"})
    other.header = replace(other.header, device=change.get("device", "Made up"))
    with pytest.raises(InputError, match="choose another directory with -o"):
        profile_device(other, tmp_path, POINTS, PLAN)
    assert len(read_device_profile(tmp_path).done()) == 1


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    """Nothing is written beside files that are not ours."""
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="is no empty directory"):
        profile_device(MadeUpDevice(), tmp_path, POINTS, PLAN)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


class MadeUpCuda:
    """The part of ``torch.cuda`` that timing uses: a capture records calls, a replay makes them."""

    def __init__(self) -> None:
        self.recorded: list[int] = []
        self.replays = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **options: self

    @contextmanager
    def stream(self, _stream: object) -> Iterator[None]:
        """Enter a stream."""
        yield

    @contextmanager
    def graph(self, graph: object) -> Iterator[None]:
        """Forget what ran before the capture."""
        CALLED.clear()
        yield
        self.recorded = list(CALLED)

    def replay(self) -> None:
        """Count."""
        self.replays += 1

    def elapsed_time(self, _end: object) -> float:
        """Return milliseconds."""
        return 3.0


class MadeUpTorch:
    """A module with nothing but ``cuda``."""

    def __init__(self) -> None:
        self.cuda = MadeUpCuda()


CALLED: list[int] = []
FUNCTIONS = [lambda i=i: CALLED.append(i) for i in range(3)]


def test_a_graph_holds_the_calls_in_turn() -> None:
    """The copies are cycled through within a captured graph, and a run is one replay, timed by events."""
    torch = MadeUpTorch()
    run_s = graph_run(torch, FUNCTIONS, 7)
    assert torch.cuda.recorded == [0, 1, 2, 0, 1, 2, 0]
    assert run_s() == 0.003
    assert torch.cuda.replays == 1


def test_a_launch_is_timed_by_the_host() -> None:
    """What the host pays for a replay, or for each call, is measured by its clock."""
    torch = MadeUpTorch()
    assert 0 < replay_run(torch, FUNCTIONS[0], 5)() < 1
    assert torch.cuda.recorded == [0] * 5
    CALLED.clear()
    assert 0 < eager_run(torch, FUNCTIONS, 4)() < 1
    assert CALLED == [0, 1, 2, 0]
