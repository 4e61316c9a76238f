"""Power of the rows of ``reference/mlenergy/h100_dense.csv``: predicted in closed form, and fitted."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.roofline.mlenergy_runs import (
    FILE,
    MAX_NUM_BATCHED_TOKENS,
    PROMPT_TOKENS,
    Row,
    read_rows,
)
from servetwin.calibrate.roofline.run_fit import DEVICE, Models, architecture_of
from servetwin.hardware.catalogue import load_device
from servetwin.hardware.power import DevicePower, device_power
from servetwin.llm.parallel import Parallelism
from servetwin.step.base import StepShape
from servetwin.step.work_columns import StepColumns, StepWork

Floats = NDArray[np.float64]

FITTED = ("kernel_w", "bf16", "fp8", "joules_per_weight_byte", "joules_per_kv_byte")

EXPECTED: Mapping[str, tuple[float, float]] = {
    "kernel_w": (300.0, 80.0),
    "bf16": (0.6e-12, 0.15e-12),
    "fp8": (0.4e-12, 0.15e-12),
    "joules_per_weight_byte": (40e-12, 15e-12),
    "joules_per_kv_byte": (100e-12, 50e-12),
}
"""What is known beforehand, and how well: less than half of an H100's limit for clocks, caches, leakage; tensor cores
from its peak within its limit, less in 8 bits; HBM3 at 4 to 5 pJ per bit with its way through the chip; attention does
several times more per byte."""

POWER_SCATTER = 0.05
"""Cards of one type differ by several percent."""


@dataclass(frozen=True)
class PowerRow:
    """One deployment: what its mean step computes on one accelerator, how long it takes, and what was measured.

    ``flops``: bf16 and fp8; ``seconds``: of a mean step, predicted and measured; ``watts``: of one accelerator.
    """

    row: Row
    flops: tuple[float, float]
    weight_bytes: float
    kv_bytes: float
    seconds: float
    measured_seconds: float
    watts: float

    def predicted_w(self, power: DevicePower) -> float:
        """Return the mean power of one accelerator in the predicted time."""
        return self.power_in(power, self.seconds)

    def power_in(self, power: DevicePower, seconds: float) -> float:
        """Return the mean power of one accelerator whose steps take so long."""
        joules = self.flops[0] * power.flop_energy("bf16") + self.flops[1] * power.flop_energy("fp8")
        joules += self.weight_bytes * power.joules_per_weight_byte + self.kv_bytes * power.joules_per_kv_byte
        return min(power.limit_w, power.kernel_w + joules / seconds)

    def errors(self, power: DevicePower) -> tuple[float, float]:
        """Return the relative errors of power and of energy per token."""
        of_power = self.predicted_w(power) / self.watts
        return of_power - 1, of_power * self.seconds / self.measured_seconds - 1


def read_power_rows(reference: Path, models: Models, prompt_scale: float = 1.0) -> list[PowerRow]:
    """Return all rows, with the assumed prompt lengths, scaled."""
    with (reference / FILE).open(encoding="utf-8") as file:
        watts = [float(row["avg_power_watts"]) for row in csv.DictReader(file)]
    return [_power_row(row, w, models, prompt_scale) for row, w in zip(read_rows(reference), watts, strict=True)]


def _power_row(row: Row, watts: float, models: Models, prompt_scale: float) -> PowerRow:
    n, prompt = max(1, round(row.batch)), max(1, round(PROMPT_TOKENS[row.task] * prompt_scale))
    chunk = min(prompt, MAX_NUM_BATCHED_TOKENS)
    kv_tokens = round(n * (prompt + row.output_tokens / 2))
    shapes = [StepShape(n, kv_tokens), StepShape(n, kv_tokens, ((chunk, 0),))]
    work = StepWork(architecture_of(row.model), Parallelism(row.tensor_parallel_size))
    done = work.of(StepColumns.of_shapes(shapes))
    chunks = row.batch / row.output_tokens * prompt / chunk

    def mean(column: Floats) -> float:
        return float(column[0] + chunks * (column[1] - column[0])) / row.tensor_parallel_size

    nothing = np.zeros(2)
    return PowerRow(
        row,
        (mean(done.flops.get("bf16", nothing)), mean(done.flops.get("fp8", nothing))),
        mean(done.weight_bytes),
        mean(done.kv_bytes),
        row.batch / float(row.predicted(models.of(row), prompt_scale)[1]),
        row.batch / row.throughput_per_s,
        watts / row.tensor_parallel_size,
    )


def fit_power(rows: Sequence[PowerRow]) -> DevicePower:
    """Return the device's power with which these rows fit best, held near `EXPECTED` where they cannot tell.

    In the steps' measured times, so that errors of predicted ones do not pass into the figures.
    """
    from scipy.optimize import least_squares  # type: ignore[import-untyped]

    start = device_power(load_device(DEVICE))
    mean, scatter = (np.array([EXPECTED[name][i] for name in FITTED]) for i in (0, 1))

    def residuals(values: Floats) -> Floats:
        power = with_values(start, values * mean)
        errors = np.array([row.power_in(power, row.measured_seconds) / row.watts - 1 for row in rows]) / POWER_SCATTER
        damped = np.sign(errors) * np.sqrt(2 * (np.sqrt(1 + errors**2) - 1))
        return np.concatenate([damped, (values - 1.0) * mean / scatter])

    found = least_squares(residuals, np.ones(len(FITTED)), bounds=(1e-3, 10.0))
    return with_values(start, found.x * mean)


def with_values(power: DevicePower, values: Floats) -> DevicePower:
    """Return the power with the figures of `FITTED` changed."""
    kernel_w, bf16, fp8, weights, kv = values.tolist()
    flops = {**power.joules_per_flop, "bf16": bf16, "fp16": bf16, "fp8": fp8}
    return replace(
        power,
        kernel_w=min(max(kernel_w, power.standby_w), power.limit_w),
        joules_per_flop=flops,
        joules_per_weight_byte=weights,
        joules_per_kv_byte=kv,
    )
