"""Clocks below the highest: how much slower steps get, and what a cap on power allows.

A step at a share ``c`` of the highest clock takes

    T(c) = T (s / c + (1 - s) max(1, MEMORY_CLOCK / c)),   s = compute / (compute + memory)

where compute = operations / peak and memory = bytes / bandwidth: what computes goes with the clock, what reads memory
does not until the clock is so low that it cannot keep the memory busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import cast

import numpy as np

from servetwin.core.errors import InputError
from servetwin.core.units import NS_PER_S
from servetwin.hardware.base import Device
from servetwin.hardware.power import DevicePower
from servetwin.step.base import StepModel, StepModelBase, StepShape
from servetwin.step.plans.base import ExecutionPlan, StageTime
from servetwin.step.work_columns import StepWork

MEMORY_CLOCK = 0.5
"""Share of the highest clock below which memory bandwidth falls with it: an estimate."""

BUCKET_TOKENS = 64
"""A clock is chosen for batches whose mean context, and whose prompts, agree to so many tokens."""

MOST_WAITING = 0.999
"""Greatest share of a step in which accelerators are taken to wait."""

_HALVINGS = 24


@dataclass(frozen=True, slots=True)
class ClockPolicy:
    """How clocks are set.

    Attributes
    ----------
    cap_w
        Most power of one accelerator; clocks are as high as it allows.
    clock, decode_clock
        Highest share of the highest clock: of every step, and of steps without a prompt's chunk.
    """

    cap_w: float = inf
    clock: float = 1.0
    decode_clock: float = 1.0

    @property
    def changes_nothing(self) -> bool:
        """Whether all steps run at the highest clock."""
        return self.cap_w == inf and self.clock == 1.0 and self.decode_clock == 1.0


class Governor:
    """Chooses the clock of each step of one instance.

    Parameters
    ----------
    work, device, power
        What steps compute, and the accelerators that do.
    policy
        Caps and clocks.
    timing
        What times steps at the highest clock.

    Raises
    ------
    InputError
        If the cap is above the board's limit, or below what a kernel draws at the lowest clock.
    """

    def __init__(
        self,
        work: StepWork,
        device: Device,
        power: DevicePower,
        policy: ClockPolicy,
        timing: StepModel | ExecutionPlan,
        *,
        where: str | None = None,
    ) -> None:
        self.work, self.device, self.power, self.policy, self.timing = work, device, power, policy, timing
        lowest = power.kernel_w_at(power.lowest_clock)
        if policy.cap_w != inf and not lowest < policy.cap_w <= power.limit_w:
            raise InputError(
                f"cap_w is {policy.cap_w:g} W; {power.name} draws {lowest:.0f} W in any kernel at its lowest clock and "
                f"has a limit of {power.limit_w:g} W: a cap lies between these",
                where=where,
            )
        self._clocks: dict[tuple[int, int, int, int], tuple[float, float]] = {}

    def of(self, num_decodes: int, kv_tokens: int, new_tokens: int, context_tokens: int) -> tuple[float, float]:
        """Return the clock of a step, and how many times longer the step takes with it.

        Parameters
        ----------
        new_tokens, context_tokens
            Of all chunks of prompts together.
        """
        mean = kv_tokens // (max(1, num_decodes) * BUCKET_TOKENS)
        key = num_decodes, mean, -(-new_tokens // BUCKET_TOKENS), context_tokens // (16 * BUCKET_TOKENS)
        found = self._clocks.get(key)
        if found is None:
            found = self._clocks[key] = self._choose(*key)
        return found

    def of_shape(self, shape: StepShape) -> tuple[float, float]:
        """Return the clock of a step, and how many times longer it takes with it."""
        new = sum(tokens for tokens, _ in shape.prefills)
        context = sum(tokens for _, tokens in shape.prefills)
        return self.of(shape.num_decodes, shape.decode_kv_tokens, new, context)

    def _choose(self, num_decodes: int, mean: int, new: int, context: int) -> tuple[float, float]:
        kv_tokens = round(num_decodes * (mean + 0.5) * BUCKET_TOKENS)
        chunks = ((new * BUCKET_TOKENS, context * 16 * BUCKET_TOKENS),) if new else ()
        step = _Step(self, StepShape(num_decodes, kv_tokens, chunks, mean * BUCKET_TOKENS, mean * BUCKET_TOKENS))
        highest = min(self.policy.clock, 1.0 if new else self.policy.decode_clock)
        clock = max(self.power.lowest_clock, highest)
        if step.watts(clock) > self.policy.cap_w:
            clock = self._below(step, clock)
        return clock, step.waiting + (1.0 - step.waiting) * step.stretch(clock)

    def _below(self, step: _Step, high: float) -> float:
        """Return the highest clock at which the step draws no more than the cap (it falls with the clock)."""
        low = self.power.lowest_clock
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if step.watts(middle) > self.policy.cap_w else (middle, high)
        return low


class _Step:
    """Power and time of one step as functions of the clock, on one accelerator while it works."""

    def __init__(self, governor: Governor, shape: StepShape) -> None:
        power, device = governor.power, governor.device
        work = governor.work.of_shape(shape)
        share = 1.0 / governor.work.accelerators
        compute = sum(
            float(flops[0]) / device.peak(dtype if dtype in device.peak_flops else _first(device))
            for dtype, flops in work.flops.items()
        )
        memory = float(work.total_bytes[0]) / device.memory_bandwidth_bytes_per_s
        self.compute_share = compute / (compute + memory) if compute + memory else 0.0
        self.waiting = min(float(np.max(work.waiting)), MOST_WAITING)
        self.seconds = _highest_clock_ns(governor.timing, shape) / NS_PER_S * (1.0 - self.waiting)
        self.flop_j = share * sum(float(f[0]) * power.flop_energy(dtype) for dtype, f in work.flops.items())
        self.flop_j += share * float(work.kv_bytes[0]) * power.joules_on_chip_per_kv_byte
        self.byte_j = share * (
            float(work.weight_bytes[0]) * power.joules_per_weight_byte
            + float(work.kv_bytes[0]) * (power.joules_per_kv_byte - power.joules_on_chip_per_kv_byte)
        )
        self.power = power
        raw = power.kernel_w + (self.flop_j + self.byte_j) / self.seconds
        self.scale = min(1.0, (power.limit_w - power.kernel_w) / max(raw - power.kernel_w, 1e-9))

    def stretch(self, clock: float) -> float:
        s = self.compute_share
        return s / clock + (1.0 - s) * max(1.0, MEMORY_CLOCK / clock)

    def watts(self, clock: float) -> float:
        joules = self.flop_j * self.power.voltage(clock) ** 2 + self.byte_j
        return self.power.kernel_w_at(clock) + self.scale * joules / (self.seconds * self.stretch(clock))


def _first(device: Device) -> str:
    return next(iter(device.peak_flops))


def _highest_clock_ns(timing: StepModel | ExecutionPlan, shape: StepShape) -> int:
    if hasattr(timing, "stage_times_ns"):
        plan = cast(ExecutionPlan, timing)
        return max(1, sum(stage.busy_ns for stage in plan.stage_times_ns([shape] * plan.num_ranks)))
    return timing.duration_ns(shape)


class ClockedStepModel(StepModelBase):
    """A step model whose steps run at the clocks that a governor chooses."""

    def __init__(self, inner: StepModel, governor: Governor) -> None:
        self.inner = inner
        self.governor = governor
        self.needs = inner.needs
        self.notices = inner.notices
        if hasattr(inner, "bound_by"):
            self.bound_by = inner.bound_by

    def decode_run_ns(self, shape: StepShape, max_steps: int, limit_ns: int) -> Sequence[int]:
        """Stretch the inner model's run, step by step: as long a one at the highest clock is never shorter."""
        n, kv_tokens = shape.num_decodes, shape.decode_kv_tokens
        durations: list[int] = []
        total = 0
        for i, inner_ns in enumerate(self.inner.decode_run_ns(shape, max_steps, limit_ns)):
            duration = max(1, round(inner_ns * self.governor.of(n, kv_tokens + i * n, 0, 0)[1]))
            durations.append(duration)
            total += duration
            if total >= limit_ns:
                break
        return durations

    def duration_ns(self, shape: StepShape) -> int:
        """Return the step's time at its clock."""
        return max(1, round(self.inner.duration_ns(shape) * self.governor.of_shape(shape)[1]))

    def breakdown_ns(self, shape: StepShape) -> dict[str, float]:
        """Return the inner model's parts, and what the clock adds."""
        parts = dict(self.inner.breakdown_ns(shape))
        return parts | {"lower_clock": sum(parts.values()) * (self.governor.of_shape(shape)[1] - 1.0)}


class ClockedPlan:
    """An execution plan whose stages run at the clocks that a governor chooses; the slowest rank's counts."""

    def __init__(self, inner: ExecutionPlan, governor: Governor) -> None:
        self.inner = inner
        self.governor = governor
        self.num_ranks, self.num_stages = inner.num_ranks, inner.num_stages
        self.needs, self.notices = inner.needs, inner.notices

    def stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[StageTime]:
        """Return the time of each stage at the batch's clock."""
        stretch = max(self.governor.of_shape(shape)[1] for shape in shapes if shape is not None)
        return [
            StageTime(max(1, round(stage.busy_ns * stretch)), stage.send_ns)
            for stage in self.inner.stage_times_ns(shapes)
        ]
