"""Fitting what only whole runs show: the cost per layer, the host, the front end, and the sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.roofline.mlenergy_runs import Row
from servetwin.calibrate.roofline.vllm_runs import Stage
from servetwin.hardware.base import Device
from servetwin.hardware.catalogue import load_device
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.catalogue import load_model
from servetwin.network.base import Collectives
from servetwin.network.presets import scale_up
from servetwin.network.topology_collectives import TopologyCollectives
from servetwin.step.efficiency import Efficiency
from servetwin.step.host import HostOverhead
from servetwin.step.roofline import RooflineStepModel

DEVICE = "H100-SXM"

QUANTIZED = {"meta-llama/Llama-3.1-405B-Instruct-FP8": ("meta-llama/Llama-3.1-405B", "fp8-channel")}
"""Models that the catalogue has in another format: the model, and how its linear layers are quantised."""

EXPECTED: Mapping[str, tuple[float, float]] = {
    "layer_us": (15.0, 10.0),
    "matrix_bandwidth": (0.845, 0.03),
    "per_step_us": (300.0, 200.0),
}
"""What is known beforehand, and how well: three models cannot tell all coefficients apart.

The share of bandwidth is that of the table of products on H100, with the scatter of its large shapes; a cost per layer
of a few gaps between kernels; a step of host work that asynchronous scheduling hides for the most part. Collectives
are those fitted to tables (`servetwin.network`) and take no part.
"""

LIMITS: Mapping[str, tuple[float, float]] = {
    "layer_us": (0.0, 100.0),
    "matrix_bandwidth": (0.5, 1.0),
    "per_step_us": (0.0, 3000.0),
    "front_end_us": (0.0, 20_000.0),
    "per_1000_logits_us": (0.0, 5.0),
}

TTFT_WEIGHT = 0.4
RUN_SCATTER = 0.03
ROW_SCATTER = 0.06
"""Relative errors from which on a measured mean counts less than its square."""


@dataclass(frozen=True)
class RunCoefficients:
    """What a server adds to its kernels: the device family's coefficients, the host, the front end."""

    efficiency: Efficiency
    host: HostOverhead
    front_end_us: float = 0.0

    def changed(self, values: Mapping[str, float]) -> RunCoefficients:
        """Return a copy with some coefficients changed, wherever they belong."""
        own = {name: value for name, value in values.items() if name == "front_end_us"}
        host = {name: value for name, value in values.items() if name.startswith("per_")}
        rest = {name: value for name, value in values.items() if name not in own and name not in host}
        return replace(self, efficiency=self.efficiency.changed(rest), host=replace(self.host, **host), **own)

    def value(self, name: str) -> float:
        """Return a coefficient by its name."""
        for holder in (self, self.host, self.efficiency):
            if hasattr(holder, name):
                return float(getattr(holder, name))
        raise KeyError(name)


def step_model(model: str, ranks: int, coefficients: RunCoefficients) -> RooflineStepModel:
    """Return the step model of one of the runs on H100."""
    device = load_device(DEVICE)
    network = device_collectives(device, ranks) if ranks > 1 else None
    return RooflineStepModel(
        architecture_of(model), device, ranks, network, host=coefficients.host, efficiency=coefficients.efficiency
    )


def architecture_of(model: str) -> ModelArchitecture:
    """Return a model of the catalogue, or of `QUANTIZED`."""
    if model not in QUANTIZED:
        return load_model(model)
    name, scheme = QUANTIZED[model]
    return load_model(name).with_quantization(scheme)


def device_collectives(device: Device, ranks: int) -> Collectives:
    """Return what collectives among devices of a node take by their own links, as in a scenario."""
    if device.scale_up is None or not (
        found := scale_up(device.scale_up.link_class, device.scale_up.bandwidth_bytes_per_s, ranks)
    ):
        raise ValueError(f"{device.name} has no scale-up link whose protocols are known")
    return TopologyCollectives(found.topology)


class Models:
    """Step models by model and ranks, made once each."""

    def __init__(self, coefficients: RunCoefficients) -> None:
        self.coefficients = coefficients
        self._made: dict[tuple[str, int], RooflineStepModel] = {}

    def of(self, run: Stage | Row) -> RooflineStepModel:
        """Return the step model of a run."""
        key = run.model, run.tensor_parallel_size
        if key not in self._made:
            self._made[key] = step_model(*key, self.coefficients)
        return self._made[key]


def fit_vllm_runs(stages: Sequence[Stage], start: RunCoefficients) -> RunCoefficients:
    """Return the coefficients with which the means of these stages fit best."""

    def errors(coefficients: RunCoefficients) -> NDArray[np.float64]:
        models = Models(coefficients)
        front_end_s = coefficients.front_end_us * 1e-6
        found = [stage.predicted(models.of(stage), front_end_s) / stage.measured - 1 for stage in stages]
        return (np.array(found) * [1.0, 1.0, TTFT_WEIGHT]).ravel() / RUN_SCATTER

    return _fit(errors, start, [*EXPECTED, "front_end_us"], EXPECTED)


def fit_mlenergy_rows(rows: Sequence[Row], start: RunCoefficients) -> RunCoefficients:
    """Return the host's coefficients with which these rows fit best: another engine, the same kernels."""

    def errors(coefficients: RunCoefficients) -> NDArray[np.float64]:
        models = Models(coefficients)
        found = [np.log(row.predicted(models.of(row)) / row.measured) for row in rows]
        return np.array(found).ravel() / ROW_SCATTER

    return _fit(errors, start, ["per_step_us", "per_1000_logits_us"], {})


def _fit(
    errors: Callable[[RunCoefficients], NDArray[np.float64]],
    start: RunCoefficients,
    names: Sequence[str],
    expected: Mapping[str, tuple[float, float]],
) -> RunCoefficients:
    """Minimise damped squares of ``errors`` and of the distance from what is expected."""
    from scipy.optimize import least_squares  # type: ignore[import-untyped]

    def residuals(values: NDArray[np.float64]) -> NDArray[np.float64]:
        changed = start.changed(dict(zip(names, values.tolist(), strict=True)))
        found = errors(changed)
        damped = np.sign(found) * np.sqrt(2 * (np.sqrt(1 + found**2) - 1))
        known = [(changed.value(name) - mean) / scatter for name, (mean, scatter) in expected.items()]
        return np.concatenate([damped, known])

    low, high = zip(*(LIMITS[name] for name in names), strict=True)
    first = np.clip([start.value(name) for name in names], np.array(low) + 1e-3, high)
    scale = np.maximum(np.abs(first), 0.05)
    found = least_squares(residuals, first, bounds=(low, high), x_scale=scale, max_nfev=25, diff_step=2e-3)
    return start.changed({name: round(float(x), 4) for name, x in zip(names, found.x, strict=True)})
