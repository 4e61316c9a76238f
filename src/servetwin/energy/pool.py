"""The power of one pool over time, component by component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import SimulationOutcome
from servetwin.energy.base import ACCELERATORS, COMPONENTS, HardwarePower, PoolPower, Traffic, memory_component
from servetwin.energy.curves import PowerCurve, constant, pulses
from servetwin.energy.instance import busy_times, state_curve, step_curve, step_energy
from servetwin.energy.steps import InstanceSteps, steps_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One instance: its number, its steps, their energy (of shape ``(steps,)``), what its accelerators draw."""

    number: int
    steps: InstanceSteps
    decode_kv_j: Floats
    """What reading the decodes' KV takes of it."""
    step_j: Floats
    """All that its steps take beyond standby and the node's rest: accelerators, host, links; shape ``(steps,)``."""
    accelerators: tuple[PowerCurve, ...]
    accelerators_count: int


@dataclass(frozen=True, slots=True)
class EncoderRecord:
    """Encoders: what batches take of each request beyond standby, ``(requests,)``, and what each accelerator draws."""

    request_j: Floats
    accelerators: Sequence[tuple[PowerCurve, ...]]


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """One pool: its instances, and the curves that add up to each component, losses and cooling excepted."""

    name: str
    psu_efficiency: float
    instances: Sequence[InstanceRecord]
    curves: dict[str, list[PowerCurve]]
    encoders: EncoderRecord | None = None
    """Where its accelerators are encoders, and no instances."""


def record_pool(
    pool: PoolPower, outcome: SimulationOutcome, rows: Sequence[NDArray[np.int64]], traffic: Sequence[Traffic]
) -> PoolRecord:
    """Return the record of a pool.

    Parameters
    ----------
    rows
        Of each instance of the outcome, the requests that it served.
    traffic
        What other rooms moved.
    """
    end_ns = last_ns(outcome)
    numbers = [i for i, spec in enumerate(outcome.instances) if spec.pool == pool.name]
    curves = no_curves()
    instances = [_record(pool, outcome, i, rows[i], curves, end_ns) for i in numbers]
    add_surroundings(pool, curves, end_ns)
    add_traffic(pool, curves, traffic)
    return PoolRecord(pool.name, pool.node.psu_efficiency, instances, curves)


def add_traffic(pool: HardwarePower, curves: dict[str, list[PowerCurve]], traffic: Sequence[Traffic]) -> None:
    """Add what other rooms moved through parts of a pool's nodes."""
    for item in traffic:
        if item.pool == pool.name:
            joules = pool.node.parts[item.component].joules(item.num_bytes)
            lasting = np.maximum(item.end_ns - item.start_ns, 1)
            ends = item.start_ns + lasting
            curves[item.component].append(pulses(item.start_ns, ends, joules / lasting * 1e9))


def add_surroundings(pool: HardwarePower, curves: dict[str, list[PowerCurve]], end_ns: int) -> None:
    """Add what a pool's nodes draw whatever happens: accelerators that nobody uses, host and other parts at rest."""
    if pool.spare_accelerators:
        curves[ACCELERATORS].append(constant(pool.spare_accelerators * pool.device.idle_w, end_ns))
    for name, watts in _background(pool).items():
        if watts:
            curves[name].append(constant(watts * pool.nodes, end_ns))


def no_curves() -> dict[str, list[PowerCurve]]:
    """Return a place for the curves of each component but losses and cooling, which follow from the others."""
    return {name: [] for name in COMPONENTS[:-2]}


def last_ns(outcome: SimulationOutcome) -> int:
    """Return the end of the account: the run's, or the last step's."""
    return max([outcome.end_ns, 1, *(log.end_ns[-1] for log in outcome.logs if log.end_ns)])


def _background(pool: HardwarePower) -> dict[str, float]:
    node = pool.node
    parts = {name: part.background_w for name, part in node.parts.items()}
    return {"base": node.base_w, "host": node.host_idle_w, **parts}


def _record(
    pool: PoolPower,
    outcome: SimulationOutcome,
    number: int,
    rows: NDArray[np.int64],
    curves: dict[str, list[PowerCurve]],
    end_ns: int,
) -> InstanceRecord:
    steps = steps_of(outcome, number, rows)
    energy = step_energy(pool, steps)
    busy = busy_times(steps)
    accelerators = (state_curve(pool, busy, end_ns), step_curve(steps, energy.above_standby))
    curves[ACCELERATORS] += accelerators
    host_w = host_power_w(pool)
    if host_w and len(busy[0]):
        curves["host"].append(pulses(*busy, np.full(len(busy[0]), host_w)))
    step_j = energy.above_standby + host_w * own_seconds(steps)
    decode_kv_j, link_bytes = energy.decode_kv, energy.link_bytes
    if pool.memory is not None:
        memory_j = pool.memory.steps_j(steps.columns)
        curves["pim"] += [constant(pool.memory.idle_w, end_ns), step_curve(steps, memory_j)]
        step_j, decode_kv_j = step_j + memory_j, decode_kv_j + memory_j
        link_bytes = link_bytes + pool.memory.link_bytes(steps.columns)
    loaded = pool.loads.of(steps.columns) if pool.loads is not None else {}
    passing = [(memory_component(device), num_bytes) for device, num_bytes in loaded.items()]
    for name, num_bytes in [("links", link_bytes), ("switches", link_bytes), *passing]:
        joules = pool.node.parts[name].joules(num_bytes)
        if joules.any():
            curves[name].append(step_curve(steps, joules))
            step_j = step_j + joules
    return InstanceRecord(number, steps, decode_kv_j, step_j, accelerators, pool.accelerators)


def host_power_w(pool: HardwarePower) -> float:
    """Return what an instance's steps add to the host's power, within the processors' limit shared by all instances."""
    node = pool.node
    wanted = node.host_active_w * pool.accelerators
    if node.host_limit_w is None:
        return wanted
    room = (node.host_limit_w - node.host_idle_w) * pool.nodes / pool.instances
    return min(wanted, room)


def own_seconds(steps: InstanceSteps) -> Floats:
    """Return the seconds of each step in which no step before it (in the log) ran: they add up to the busy time."""
    if not len(steps.start_ns):
        return np.zeros(0)
    before = np.concatenate([[0], np.maximum.accumulate(steps.end_ns)[:-1]])
    return np.asarray(np.maximum(steps.end_ns - np.maximum(steps.start_ns, before), 0) / 1e9)
