"""The accelerators of one instance: the energy of each step, and the state between steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servetwin.core.units import NS_PER_S
from servetwin.energy.base import HardwarePower, PoolPower
from servetwin.energy.curves import PowerCurve, pulses
from servetwin.energy.steps import InstanceSteps
from servetwin.hardware.power import DevicePower
from servetwin.step.work_columns import WorkColumns

Floats = NDArray[np.float64]
Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepEnergy:
    """Energy of steps over all accelerators of an instance, each column of shape ``(steps,)``, in joules.

    ``above_standby``: what a step takes beyond standby, within the board's limit or cap; ``decode_kv``: the part of it
    that reads the KV of decodes; ``link_bytes``: what the accelerators sent to each other.
    """

    above_standby: Floats
    decode_kv: Floats
    link_bytes: Floats


def step_energy(pool: PoolPower, steps: InstanceSteps) -> StepEnergy:
    """Return the energy of each step.

    A pipeline's batch runs on one stage at a time: it keeps a stage's share of the accelerators busy for as long as it
    lasts, and batches in flight add up. While it waits for memory that computes it draws standby power.
    """
    work, device = pool.work.of(steps.columns), pool.device
    clock, stretch = _clocks(pool, steps)
    voltage = device.voltage_floor + (1.0 - device.voltage_floor) * clock
    working = 1.0 - work.waiting / stretch
    seconds = steps.seconds * (pool.accelerators / pool.work.ranks.pipeline) * working
    floor = (device.kernel_w - device.standby_w) * clock * voltage**2 * seconds
    limit = (_most_w(pool) - device.standby_w) * seconds
    operations = _operations_j(device, work, voltage) * _within_limit(device, work, seconds, clock)
    wanted = floor + operations
    taken = np.minimum(wanted, limit)
    scale = np.divide(taken, wanted, out=np.ones_like(wanted), where=wanted > 0)
    decode_kv = np.minimum(work.decode_kv_bytes * device.joules_per_kv_byte * scale, taken)
    return StepEnergy(taken, decode_kv, work.link_bytes)


def _operations_j(device: DevicePower, work: WorkColumns, voltage: Floats) -> Floats:
    flops_j = sum(
        (flops * device.flop_energy(dtype) for dtype, flops in work.flops.items()), np.zeros_like(work.kv_bytes)
    )
    on_chip = device.joules_on_chip_per_kv_byte
    flops_j = flops_j + work.kv_bytes * on_chip
    bytes_j = work.weight_bytes * device.joules_per_weight_byte + work.kv_bytes * (device.joules_per_kv_byte - on_chip)
    return np.asarray(flops_j * voltage**2 + bytes_j)


def _within_limit(device: DevicePower, work: WorkColumns, seconds: Floats, clock: Floats) -> Floats | float:
    """Return by how much operations at the highest clock would exceed the limit; times are measured within it."""
    if np.all(clock == 1.0):
        return 1.0
    raw = _operations_j(device, work, np.ones_like(seconds))
    room = (device.limit_w - device.kernel_w) * seconds
    return np.minimum(1.0, np.divide(room, raw, out=np.ones_like(raw), where=raw > 0))


def _most_w(pool: PoolPower) -> float:
    cap = pool.governor.policy.cap_w if pool.governor else pool.device.limit_w
    return min(pool.device.limit_w, cap)


def _clocks(pool: PoolPower, steps: InstanceSteps) -> tuple[Floats, Floats]:
    """Return each step's clock, and how many times longer it took with it."""
    if pool.governor is None:
        return np.ones(len(steps.start_ns)), np.ones(len(steps.start_ns))
    columns = steps.columns
    rows = zip(
        columns.num_decodes.astype(int).tolist(),
        columns.decode_kv_tokens.astype(int).tolist(),
        np.rint(columns.prefill_tokens).astype(int).tolist(),
        np.rint(columns.prefill_context).astype(int).tolist(),
        strict=True,
    )
    clocks = np.array([pool.governor.of(*row) for row in rows], dtype=np.float64).reshape(-1, 2)
    return clocks[:, 0], clocks[:, 1]


def busy_times(steps: InstanceSteps) -> tuple[Times, Times]:
    """Return start and end of the stretches in which at least one step runs."""
    return stretches(steps.start_ns, steps.end_ns)


def stretches(start_ns: Times, end_ns: Times) -> tuple[Times, Times]:
    """Return start and end of the stretches that some spans of time cover, which may overlap or follow each other."""
    if not len(start_ns):
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing
    order = np.argsort(start_ns, kind="stable")
    start, end = start_ns[order], np.maximum.accumulate(end_ns[order])
    begins = np.append(True, start[1:] > end[:-1])
    return start[begins], end[np.append(begins[1:], True)]


def state_curve(pool: HardwarePower, busy: tuple[Times, Times], end_ns: int) -> PowerCurve:
    """Return what an instance's accelerators draw in whatever state they are, steps' own energy aside.

    Standby while a step runs and ``standby_s`` after it, then idle, then asleep if the pool sleeps. Before the first
    step they are idle, or in standby where that lasts for ever.
    """
    device = pool.device
    first_w = device.standby_w if device.standby_s is None else device.idle_w
    start, end = busy
    following = np.append(start[1:], end_ns).astype(np.int64) if len(start) else np.zeros(0, np.int64)
    standby_ns = _ns(device.standby_s)
    sleep_ns = _ns(pool.sleep_after_s)
    awake_end = np.minimum(following, end + min(standby_ns, sleep_ns))
    sleep_from = np.minimum(following, end + sleep_ns)
    edges = np.concatenate([[0], np.stack([start, end, awake_end, np.maximum(sleep_from, awake_end)], axis=1).ravel()])
    levels = np.concatenate(
        [[first_w], np.tile([device.standby_w, device.standby_w, device.idle_w, pool.sleep_w], len(start))]
    )
    edges = np.append(edges, max(end_ns, int(edges[-1])))
    return PowerCurve(edges.astype(np.int64), levels * float(pool.accelerators))


def _ns(seconds: float | None) -> int:
    return 2**60 if seconds is None else round(seconds * NS_PER_S)


def step_curve(steps: InstanceSteps, joules: Floats) -> PowerCurve:
    """Return the power of energies that are each spread over a step."""
    lasting = np.maximum(steps.end_ns - steps.start_ns, 1)
    return pulses(steps.start_ns, steps.end_ns, joules / lasting * NS_PER_S)
