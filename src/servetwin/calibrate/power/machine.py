"""Learning a machine's constants from its measured power and a simulated run of the same load.

A machine is a base, processors that are busier while an accelerator is, and accelerators that idle, stand by and work.
A meter of the whole machine cannot tell its base from its accelerators' idle power, nor a processor from the
accelerator that keeps it busy, so what accelerators draw at rest and at work is then taken from their own figures; the
rest is fitted. Readings of the accelerators themselves, where there are some, replace these figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.power.meter import Meter
from servetwin.calibrate.power.series import PowerSeries
from servetwin.core.errors import InputError
from servetwin.energy.curves import PowerCurve, pulses
from servetwin.energy.instance import busy_times
from servetwin.energy.model import Energy
from servetwin.hardware.power import DevicePower

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Machine:
    """One server's constants; they do not change from run to run.

    Attributes
    ----------
    accelerators
        That stand in it, used or not.
    base_w
        All that never changes, idle accelerators aside.
    host_active_w
        Of the processors, for each accelerator that works.
    idle_w, standby_w, standby_s
        Of one accelerator.
    scale
        What an accelerator draws above standby at work, against its own figures.
    """

    accelerators: int
    base_w: float
    host_active_w: float
    idle_w: float
    standby_w: float
    standby_s: float
    scale: float
    meter: Meter

    def options(self, device: DevicePower) -> dict[str, Any]:
        """Return the scenario's key ``power`` for this machine."""
        own = {"idle_w": self.idle_w, "standby_w": self.standby_w, "standby_s": self.standby_s}
        if self.scale != 1.0:
            own["kernel_w"] = self.standby_w + self.scale * (device.kernel_w - device.standby_w)
            for name in ("joules_per_weight_byte", "joules_per_kv_byte"):
                own[name] = self.scale * getattr(device, name)
            own["joules_per_flop"] = self.scale * device.joules_per_flop["bf16"]
        node = {
            "accelerators": self.accelerators,
            "base_w": round(self.base_w, 1),
            "host": {"per_active_accelerator_w": round(self.host_active_w, 1)},
        }
        return {"devices": {device.name: {key: float(f"{value:.6g}") for key, value in own.items()}}, "node": node}


@dataclass(frozen=True)
class Activity:
    """What the accelerators of a run did: when busy, and their power above standby, as curves."""

    busy: tuple[NDArray[np.int64], NDArray[np.int64]]
    above_standby: PowerCurve
    count: int
    end_ns: int

    @property
    def working(self) -> PowerCurve:
        """Number of working accelerators."""
        return pulses(*self.busy, np.full(len(self.busy[0]), float(self.count)))

    def standing_by(self, standby_s: float) -> PowerCurve:
        """Return the number of accelerators that work or stand by."""
        start, end = self.busy
        following = np.append(start[1:], self.end_ns + 10**12)
        until = np.minimum(end + round(standby_s * 1e9), following)
        return pulses(start, until, np.full(len(start), float(self.count)))


def activity_of(energy: Energy) -> Activity:
    """Return what the accelerators of a run with one instance did.

    Raises
    ------
    InputError
        If there are several instances: fit with a run of one.
    """
    instances = [item for record in energy.pools for item in record.instances]
    if len(instances) != 1:
        raise InputError(f"the run has {len(instances)} instances; constants are fitted on a run of one")
    (item,) = instances
    return Activity(busy_times(item.steps), item.accelerators[1], item.accelerators_count, energy.end_ns)


def fit_machine(series: PowerSeries, energy: Energy, device: DevicePower, accelerators: int) -> Machine:
    """Return the constants with which the run's power is nearest to the readings (least squares).

    Parameters
    ----------
    series
        Readings; those of the machine, of the accelerators, or both.
    energy
        Of the simulated run, by the device's own figures.
    accelerators
        That stand in the machine.
    """
    activity = activity_of(energy)
    start = Machine(accelerators, 0.0, 0.0, device.idle_w, device.standby_w, device.standby_s or 60.0, 1.0, Meter())
    if series.accelerators_w is not None:
        start = _fit_accelerators(series, activity, start)
    if series.node_w is None:
        return start
    return _fit_node(series, activity, start, given=series.accelerators_w is not None)


def machine_watts(machine: Machine, activity: Activity, time_s: Floats) -> Floats:
    """Return what the machine's meter shows in a run."""
    meter = machine.meter
    standing = meter.shows([activity.standing_by(machine.standby_s)], time_s)
    working, above = (meter.shows([curve], time_s) for curve in (activity.working, activity.above_standby))
    rest = machine.base_w + machine.accelerators * machine.idle_w
    rise = machine.standby_w - machine.idle_w
    return np.asarray(rest + rise * standing + machine.host_active_w * working + machine.scale * above)


def _fit_accelerators(series: PowerSeries, activity: Activity, start: Machine) -> Machine:
    assert series.accelerators_w is not None
    readings = series.accelerators_w

    def solved(machine: Machine) -> tuple[Machine, float]:
        columns = [np.ones(len(readings)), *_columns(machine, activity, series.time_s, (True, False, True))]
        (rest, rise, scale), error = _least_squares(columns, readings)
        idle = rest / machine.accelerators
        return replace(machine, idle_w=idle, standby_w=idle + rise, scale=scale), error

    return _search(start, solved)


def _fit_node(series: PowerSeries, activity: Activity, start: Machine, *, given: bool) -> Machine:
    assert series.node_w is not None
    readings = series.node_w

    def solved(machine: Machine) -> tuple[Machine, float]:
        standing, working, above = _columns(machine, activity, series.time_s, (True, True, True))
        known = machine.scale * above + (machine.standby_w - machine.idle_w) * standing * given
        columns = [np.ones(len(readings)), working, *([] if given else [standing])]
        (rest, host, *rise), error = _least_squares(columns, readings - known)
        found = replace(machine, base_w=max(0.0, rest - machine.accelerators * machine.idle_w), host_active_w=host)
        return (replace(found, standby_w=machine.idle_w + rise[0]) if rise else found), error

    def scaled(machine: Machine) -> tuple[Machine, float]:
        standing, above = _columns(machine, activity, series.time_s, (True, False, True))
        (rest, rise, scale), error = _least_squares([np.ones(len(readings)), standing, above], readings)
        base = max(0.0, rest - machine.accelerators * machine.idle_w)
        return replace(machine, base_w=base, host_active_w=0.0, standby_w=machine.idle_w + rise, scale=scale), error

    found = _search(start, solved)
    return _search(start, scaled) if found.host_active_w == 0.0 and not given else found


def _columns(machine: Machine, activity: Activity, time_s: Floats, wanted: tuple[bool, bool, bool]) -> list[Floats]:
    curves = (activity.standing_by(machine.standby_s), activity.working, activity.above_standby)
    return [machine.meter.shows([curve], time_s) for curve, yes in zip(curves, wanted, strict=True) if yes]


def _least_squares(columns: list[Floats], readings: Floats) -> tuple[list[float], float]:
    """Return the coefficients, none below 0, and the root mean square error."""
    matrix = np.stack(columns, axis=1)
    used = list(range(len(columns)))
    while True:
        solution = np.zeros(len(columns))
        solution[used] = np.linalg.lstsq(matrix[:, used], readings, rcond=None)[0]
        below = [i for i in used if solution[i] < 0]
        if not below:
            break
        used = [i for i in used if i not in below]
    return solution.tolist(), float(np.sqrt(np.mean((matrix @ solution - readings) ** 2)))


_STEPS = {"standby_s": 4.0, "offset_s": 0.5, "lag_s": 0.4}
_LIMITS = {"standby_s": (0.0, 600.0), "offset_s": (-30.0, 30.0), "lag_s": (0.0, 5.0)}
_OFFSETS_S = np.arange(-4.0, 4.5, 0.5)


def _search(start: Machine, solved: Callable[[Machine], tuple[Machine, float]]) -> Machine:
    """Return the best machine over standby time, offset and lag: a pattern search from the best offset."""
    if start.meter != Meter():
        return solved(start)[0]
    trials = [_with(start, offset_s=float(offset), lag_s=0.5) for offset in _OFFSETS_S]
    best, error = min((solved(trial) for trial in trials), key=lambda pair: pair[1])
    steps = dict(_STEPS)
    while max(steps[name] / _STEPS[name] for name in steps) > 0.02:
        better = False
        for name, step in steps.items():
            for sign in (1, -1):
                low, high = _LIMITS[name]
                value = min(high, max(low, _value(best, name) + sign * step))
                trial, found = solved(_with(best, **{name: value}))
                if found < error - 1e-9:
                    best, error, better = trial, found, True
        if not better:
            steps = {name: step / 2 for name, step in steps.items()}
    return best


def _value(machine: Machine, name: str) -> float:
    return machine.standby_s if name == "standby_s" else float(getattr(machine.meter, name))


def _with(machine: Machine, **values: float) -> Machine:
    standby_s = values.pop("standby_s", machine.standby_s)
    return replace(machine, standby_s=standby_s, meter=replace(machine.meter, **values))
