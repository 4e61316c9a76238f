"""Constants of an invented machine are found again from what its meter would show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import servetwin
from servetwin.calibrate.power.fit_run import fit_run
from servetwin.calibrate.power.machine import Machine, activity_of, fit_machine, machine_watts
from servetwin.calibrate.power.meter import Meter
from servetwin.calibrate.power.series import PowerSeries
from servetwin.cli.main import app
from servetwin.core.errors import InputError
from servetwin.hardware import load_device
from servetwin.hardware.power import device_power
from servetwin.scenario.build import build
from servetwin.scenario.load import load_scenario

DEVICE = device_power(load_device("L40S"))
TIMES = np.arange(0.0, 70.0)
TRUE = Machine(4, 250.0, 30.0, DEVICE.idle_w, 100.0, 9.0, 1.0, Meter(0.7, 0.6))


def scenario(replicas: int = 1) -> dict[str, object]:
    """Return two bursts, 40 s apart, on one accelerator."""
    return {
        "model": "meta-llama/Llama-3.2-1B",
        "cluster": [{"name": "a", "replicas": replicas, "hardware": {"device": "L40S"}}],
        "workload": {
            "kind": "synthetic",
            "requests": 2,
            "arrivals": {"kind": "constant", "rate_per_s": 0.025},
            "prompt_tokens": 100,
            "output_tokens": 4000,
        },
    }


@pytest.fixture(scope="module")
def energy() -> servetwin.energy.model.Energy:
    """Return the energy of the run by the device's own figures."""
    found = servetwin.simulate(build(load_scenario(scenario(), edits={"power": {}}))).energy
    assert found is not None
    return found


def test_a_machine_is_found_again(energy: servetwin.energy.model.Energy) -> None:
    """From the machine's meter alone: base, standby and its time, the host, the meter's lag and clock."""
    watts = machine_watts(TRUE, activity_of(energy), TIMES)
    found = fit_machine(PowerSeries(TIMES, watts, None), energy, DEVICE, 4)
    assert found.base_w == pytest.approx(250, abs=3)
    assert found.standby_w == pytest.approx(100, abs=3)
    assert found.standby_s == pytest.approx(9, abs=0.5)
    assert found.host_active_w == pytest.approx(30, abs=3)
    assert machine_watts(found, activity_of(energy), TIMES) == pytest.approx(watts, rel=0.01)


def test_accelerators_that_draw_less_than_they_should_are_scaled(energy: servetwin.energy.model.Energy) -> None:
    """No host power below 0: the accelerators' own figures give way."""
    true = replace(TRUE, host_active_w=0.0, scale=0.6)
    watts = machine_watts(true, activity_of(energy), TIMES)
    found = fit_machine(PowerSeries(TIMES, watts, None), energy, DEVICE, 4)
    assert found.host_active_w == 0
    assert found.scale == pytest.approx(0.6, abs=0.03)
    options = found.options(DEVICE)["devices"][DEVICE.name]
    assert options["kernel_w"] == pytest.approx(
        found.standby_w + found.scale * (DEVICE.kernel_w - DEVICE.standby_w), rel=1e-4
    )


def test_readings_of_accelerators_come_first(energy: servetwin.energy.model.Energy) -> None:
    """With both, idle and standby power come from the accelerators, base and host from the rest."""
    true = replace(TRUE, idle_w=40.0, scale=0.8)
    activity = activity_of(energy)
    accelerators = machine_watts(replace(true, base_w=0.0, host_active_w=0.0), activity, TIMES)
    both = PowerSeries(TIMES, machine_watts(true, activity, TIMES), accelerators)
    found = fit_machine(both, energy, DEVICE, 4)
    assert (found.idle_w, found.standby_w, found.scale) == pytest.approx((40, 100, 0.8), rel=0.03)
    assert (found.base_w, found.host_active_w) == pytest.approx((250, 30), rel=0.05)


def test_the_command_writes_keys_that_a_scenario_takes(tmp_path: Path, energy: servetwin.energy.model.Energy) -> None:
    """Fitted on the first burst, compared on the second; the file's keys make a scenario that runs."""
    series = tmp_path / "series.csv"
    watts = machine_watts(TRUE, activity_of(energy), TIMES)
    rows = "\n".join(f"{t},{w}" for t, w in zip(TIMES, watts, strict=True))
    series.write_text(f"time_s,node_w\n{rows}\n")
    run = tmp_path / "run"
    servetwin.simulate(scenario()).write(run, report=False)
    output = tmp_path / "power.yaml"
    arguments = ["power", "fit", str(series), str(run), "-o", str(output), "--accelerators", "4", "--until", "40"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    errors = json.loads(done.stdout)["errors"]
    assert abs(errors["after"]["energy_percent"]) < 1
    keys = yaml.safe_load(output.read_text())
    assert servetwin.simulate(scenario() | keys).summary["energy"]["components_j"]["base"] > 0


def test_runs_of_several_instances_are_refused(tmp_path: Path) -> None:
    """As is a machine with fewer accelerators than the run uses, and a run that is not there."""
    series = tmp_path / "series.csv"
    series.write_text("time_s,node_w\n0,1\n1,2\n2,3\n")
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(scenario(replicas=2)))
    with pytest.raises(InputError, match="the run has 2 instances"):
        fit_run(series, path)
    with pytest.raises(InputError, match="no such file; give the directory of a run"):
        fit_run(series, tmp_path / "nothing")
