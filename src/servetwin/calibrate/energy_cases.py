"""The cases of power and energy: a measured server, saturated H100, and LLMServingSim's own figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.case import CaseResult, Check, percent_check
from servetwin.calibrate.lss_cases import predicted_run
from servetwin.calibrate.lss_runs import LssRun
from servetwin.calibrate.power.machine import Machine, activity_of, fit_machine, machine_watts
from servetwin.calibrate.power.mlenergy_power import PowerRow, fit_power, read_power_rows
from servetwin.calibrate.power.series import PowerSeries, read_power_series
from servetwin.calibrate.roofline.run_fit import DEVICE, Models
from servetwin.calibrate.roofline_cases import coefficients
from servetwin.energy.model import Energy
from servetwin.hardware.catalogue import load_device
from servetwin.hardware.power import DevicePower, device_power
from servetwin.scenario.importers.llmservingsim import LssFlags

ROOT = "llmservingsim/ispass26"

SERVER = "RTXA6000"
SERVER_ACCELERATORS = 2
"""The server of figure 6 ran with one accelerator and with two; both stand in it all the time."""

PULSES = LssRun(
    "ispass26/figure_6/config/power_config_tp1.json",
    "ispass26/workloads/sharegpt_pulse_req10_n3_delay60.jsonl",
    "profiles-v0",
    LssFlags(enable_prefix_caching=False),
)
FIRST_PULSE_S = 60.0

ENERGY_TARGET, MAPE_TARGET, PEAK_TARGET = 1.5, 2.5, 2.0
POWER_TARGET, PER_TOKEN_TARGET, HELD_OUT_TARGET = 7.0, 8.0, 10.0
LSS_TARGET = 5.0

FIGURE_10 = LssRun(
    "ispass26/figure_10/config/gpu_only_config.json",
    "ispass26/workloads/fixed_in128_out512_req256_rate10.jsonl",
    "profiles-v0",
    LssFlags(max_num_seqs=256, enable_prefix_caching=False),
)
FIGURE_10_TOKENS = 131_072
COMPONENTS = {
    "Others": "base",
    "GPU": "accelerators",
    "CPU": "host",
    "Memory": "dram",
    "Link": "links",
    "NIC": "nics",
    "Storage": "storage",
}
"""Figure 10's components by our names."""

POWER_RUN = LssRun(
    "configs/cluster/single_node_power_instance.json", "workloads/example_trace.jsonl", flags=LssFlags(num_reqs=10)
)


def figure_6_energy(reference: Path) -> tuple[PowerSeries, Energy, DevicePower]:
    """Return the readings, the energy of the same load simulated, and what is known of the accelerator."""
    own = {"power": {"node": {"accelerators": SERVER_ACCELERATORS}}}
    energy = PULSES.simulate(reference, edits=own).energy
    assert energy is not None
    series = read_power_series(reference / ROOT / "figure_6" / "reference" / "server_power_tp1.tsv")
    return series, energy, device_power(load_device(SERVER))


def server_power(reference: Path) -> list[CaseResult]:
    """Fit a server's constants on the first pulse of figure 6, judge them on the other two."""
    series, energy, device = figure_6_energy(reference)
    machine = fit_machine(series.until(FIRST_PULSE_S), energy, device, SERVER_ACCELERATORS)
    fitted = judge_series(series.until(FIRST_PULSE_S), machine, energy, "first pulse, fitted", (None, None, None))
    judged = judge_series(
        series.since(FIRST_PULSE_S),
        machine,
        energy,
        "second and third pulse",
        (ENERGY_TARGET, MAPE_TARGET, PEAK_TARGET),
    )
    remarks = [
        f"Fitted on the first 60 s: base {machine.base_w:.0f} W, standby {machine.standby_w:.0f} W for "
        f"{machine.standby_s:.1f} s, processors {machine.host_active_w:.0f} W per working accelerator, the meter's lag "
        f"{machine.meter.lag_s:.2f} s and offset {machine.meter.offset_s:.2f} s. Not fitted: the accelerator's idle "
        f"power ({machine.idle_w:g} W), its power at work, its limit. {SERVER_ACCELERATORS} accelerators stand in it.",
        "The measured pulses do not rise exactly 60 s apart: the first does about 0.3 s later in its minute.",
    ]
    return [CaseResult("A6000 server, power in pulses (figure 6, TP1), default mode", [*judged, *fitted], remarks)]


def judge_series(
    series: PowerSeries, machine: Machine, energy: Energy, what: str, targets: Sequence[float | None]
) -> list[Check]:
    """Return the checks of energy, of the mean error per reading, and of the peak."""
    measured = series.node_w
    assert measured is not None
    ours = machine_watts(machine, activity_of(energy), series.time_s)
    mape = float(np.mean(np.abs(ours / measured - 1))) * 100
    step_s = float(np.median(np.diff(series.time_s)))
    return [
        percent_check("energy", what, "kJ", measured.sum() * step_s / 1e3, ours.sum() * step_s / 1e3, targets[0]),
        Check("power per second, MAPE", what, "W, mean", float(measured.mean()), float(ours.mean()), mape, targets[1]),
        percent_check("peak power", what, "W", float(measured.max()), float(ours.max()), targets[2]),
    ]


def mlenergy_power(reference: Path) -> list[CaseResult]:
    """Judge the power of saturated H100, with half and double the assumed prompts, and leave-one-model-out."""
    models, power = Models(coefficients("mlenergy")), device_power(load_device(DEVICE))
    rows = read_power_rows(reference, models)
    checks = _row_checks(rows, power, "rows", POWER_TARGET, PER_TOKEN_TARGET)
    for scale in (0.5, 2.0):
        checks += _row_checks(
            read_power_rows(reference, models, scale), power, f"rows, prompts x {scale:g}", None, None
        )
    held_out = []
    for model in dict.fromkeys(row.row.model for row in rows):
        fitted = fit_power([row for row in rows if row.row.model != model])
        own = [row for row in rows if row.row.model == model]
        checks += _row_checks(own, fitted, f"rows of {model}, held out", None, None)
        held_out += [row.errors(fitted) for row in own]
    checks += _medians(np.array(held_out), "rows, leave one model out", HELD_OUT_TARGET, HELD_OUT_TARGET)
    remarks = [
        "Power of one accelerator and energy per output token, in the times that the roofline predicts. Five figures "
        "are fitted in the measured times: what kernels draw at all, operations in bf16 and fp8, bytes of weights and "
        "of KV. Prompt lengths are assumed, 256 tokens for each task, as the data has none.",
        "Cards differ: the same model, batch and speed is off by a tenth to both sides.",
    ]
    return [CaseResult("ML.ENERGY, dense models on H100, power", checks, remarks)]


def _row_checks(
    rows: Sequence[PowerRow], power: DevicePower, what: str, target: float | None, per_token: float | None
) -> list[Check]:
    return _medians(np.array([row.errors(power) for row in rows]), what, target, per_token)


def _medians(errors: NDArray[np.float64], what: str, *targets: float | None) -> list[Check]:
    found = np.median(np.abs(errors), axis=0) * 100
    names = ("mean power, median error", "energy per token, median error")
    return [
        Check(name, what, "%", 0.0, value, value, target)
        for name, value, target in zip(names, found.tolist(), targets, strict=True)
    ]


def lss_energy(reference: Path) -> list[CaseResult]:
    """Compare figure 10's energies without PIM in mode lss with LLMServingSim's own, and ours beside them."""
    folder = reference / ROOT / "figure_10" / "parsed"
    lines = [line.split("\t") for line in (folder / "component_energy.tsv").read_text(encoding="utf-8").splitlines()]
    column = lines[0].index("gpu-only")
    theirs = {line[0]: float(line[column]) for line in lines[1:]}
    results = []
    for mode, target in (("lss", LSS_TARGET), ("default", None)):
        result = FIGURE_10.simulate(reference, "lss" if mode == "lss" else "default")
        assert result.energy is not None
        ours = result.energy.components_j
        checks = [percent_check(name, "energy", "J", theirs[name], ours[COMPONENTS[name]], target) for name in theirs]
        per_token, own = (joules / FIGURE_10_TOKENS for joules in (sum(theirs.values()), result.energy.total_j))
        checks.append(percent_check("energy per token", "", "J", per_token, own, target))
        results.append(CaseResult(f"Figure 10 without PIM, `--mode {mode}` against LLMServingSim", checks))
    return results


def lss_power_times(reference: Path) -> list[CaseResult]:
    """Compare the requests of ``predicted/power.csv``: power keys do not change times."""
    return [predicted_run(reference, "power", POWER_RUN)]


ENERGY_CASES: tuple[Callable[[Path], list[CaseResult]], ...] = (
    server_power,
    mlenergy_power,
    lss_energy,
    lss_power_times,
)
