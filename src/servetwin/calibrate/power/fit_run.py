"""``servetwin power fit``: a measured series and a run of the same load give the machine's constants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from servetwin.calibrate.power.machine import Machine, activity_of, fit_machine, machine_watts
from servetwin.calibrate.power.series import PowerSeries, read_power_series
from servetwin.core.errors import InputError
from servetwin.hardware.power import device_power
from servetwin.scenario.build import build
from servetwin.scenario.load import load_scenario
from servetwin.scenario.run import simulate


@dataclass(frozen=True)
class FitResult:
    """A machine, its keys for a scenario, and how near the fitted and the other readings are.

    ``errors``: per part of the series (``fitted``, ``after``), energy and peak in percent, mean absolute percentage.
    """

    machine: Machine
    options: dict[str, Any]
    errors: dict[str, dict[str, float]]

    def yaml(self) -> str:
        """Return the keys as a scenario has them."""
        head = (
            f"# Fitted by servetwin power fit. The meter lags {self.machine.meter.lag_s:.2f} s; its time 0 is "
            f"{-self.machine.meter.offset_s:.2f} s of the run's.\n"
        )
        return head + yaml.safe_dump({"power": self.options}, sort_keys=False)


def fit_run(
    series_path: Path, run: Path, *, accelerators: int | None = None, until_s: float | None = None
) -> FitResult:
    """Fit a machine's constants.

    Parameters
    ----------
    series_path
        Readings, see `read_power_series`.
    run
        The directory of a finished run of the same load on the same machine (its ``resolved.yaml`` is simulated again),
        or a scenario.
    accelerators
        That stand in the machine; None: those of the run.
    until_s
        Fit on readings before this time only; the others are compared.

    Raises
    ------
    InputError
        For a file that is missing or wrong, a run of several instances, or a device whose power nothing is known of.
    """
    series = read_power_series(series_path)
    path = run / "resolved.yaml" if run.is_dir() else run
    if not path.is_file():
        raise InputError("no such file; give the directory of a run, or its scenario", where=str(path))
    deployment = build(load_scenario(path, edits={"power": {}, "cost": None, "carbon": None}))
    device = device_power(deployment.replicas[0].device)
    energy = simulate(deployment).energy
    assert energy is not None
    count = accelerators or activity_of(energy).count
    if count < activity_of(energy).count:
        raise InputError(f"the machine has {count} accelerators, the run uses {activity_of(energy).count}")
    fitted_on = series if until_s is None else series.until(until_s)
    machine = fit_machine(fitted_on, energy, device, count)
    parts = {"fitted": fitted_on} | ({} if until_s is None else {"after": series.since(until_s)})
    errors = {name: _errors(part, machine, activity_of(energy)) for name, part in parts.items() if len(part.time_s) > 2}
    return FitResult(machine, machine.options(device), errors)


def _errors(series: PowerSeries, machine: Machine, activity: Any) -> dict[str, float]:
    if series.node_w is not None:
        readings = series.node_w
    else:
        assert series.accelerators_w is not None
        readings = series.accelerators_w
    ours = machine_watts(machine, activity, series.time_s)
    return {
        "energy_percent": float(ours.sum() / readings.sum() - 1) * 100,
        "mape_percent": float(np.mean(np.abs(ours / readings - 1))) * 100,
        "peak_percent": float(ours.max() / readings.max() - 1) * 100,
    }
