"""Measuring point by point, with what a profile already holds left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from servetwin.calibrate.device_profile.header import HEADER, Header, check_same
from servetwin.calibrate.device_profile.points import Point
from servetwin.calibrate.device_profile.sampling import Plan, statistics_of, take_samples
from servetwin.calibrate.device_profile.table import (
    DeviceProfile,
    Measurement,
    append_measurement,
    append_not_measured,
    drop_cut_lines,
    read_device_profile,
)
from servetwin.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Task:
    """A point that is ready to run.

    Attributes
    ----------
    run_s
        Runs ``calls`` calls of the operator and returns how long they took, in seconds.
    calls
        Calls in one run.
    kernel
        The function that is called.
    """

    run_s: Callable[[], float]
    calls: int
    kernel: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read off a meter rather than timed.

    Attributes
    ----------
    values
        In the unit of the operator's table (watts), at least one.
    kernel
        The function that ran meanwhile.
    """

    values: Sequence[float]
    kernel: str


class MeasuringDevice(Protocol):
    """What the loop needs of a device."""

    @property
    def header(self) -> Header:
        """The device and the conditions."""
        ...

    def prepare(self, point: Point) -> Task | Reading:
        """Return a point made ready to be timed, or the readings of its meter.

        Raises
        ------
        NotMeasurable
            If it cannot be run here.
        """
        ...

    def release(self) -> None:
        """Give back what the last point held."""
        ...


class NotMeasurable(Exception):
    """A point cannot be run on this device; the message says why."""


def profile_device(
    device: MeasuringDevice,
    folder: Path,
    points: Iterable[Point],
    plan: Plan,
    *,
    progress: Callable[[int], None] | None = None,
) -> DeviceProfile:
    """Measure the points that ``folder`` does not hold yet, and return all that it then holds.

    Parameters
    ----------
    device
        Where to measure.
    folder
        Is made where it does not exist. It must be empty or hold a profile of the same device.
    points
        What to measure.
    plan
        How often.
    progress
        Is told how many points are done.

    Raises
    ------
    InputError
        If the folder holds something else, or a profile of another device.
    """
    done = _open(folder, device.header)
    wanted: Sequence[Point] = list(points)
    for number, point in enumerate(wanted, start=1):
        if point not in done:
            _measure(device, folder, point, plan)
            device.release()
            done.add(point)
        if progress is not None:
            progress(number)
    return read_device_profile(folder)


def _open(folder: Path, header: Header) -> set[Point]:
    """Return what the folder already holds, after making it ready for more."""
    if (folder / HEADER).is_file():
        drop_cut_lines(folder)
        profile = read_device_profile(folder)
        check_same(profile.header, header, folder)
        return profile.done()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"is no empty directory and holds no {HEADER}; choose another with -o", where=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    header.write(folder)
    return set()


def _measure(device: MeasuringDevice, folder: Path, point: Point, plan: Plan) -> None:
    try:
        found = device.prepare(point)
        values = found.values if isinstance(found, Reading) else _microseconds(found, plan)
    except NotMeasurable as reason:
        append_not_measured(folder, point, str(reason))
    else:
        append_measurement(folder, Measurement(point, statistics_of(values), found.kernel))


def _microseconds(task: Task, plan: Plan) -> list[float]:
    return [seconds * 1e6 / task.calls for seconds in take_samples(task.run_s, plan)]
