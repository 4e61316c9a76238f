"""The power of FFN devices that serve the attention ranks of a pool's groups: what a wave of all ranks takes of them.

They wait for micro-batches inside communication kernels, so that a kernel runs for as long as a wave lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import SimulationOutcome
from servetwin.energy.base import ACCELERATORS, PoolPower
from servetwin.energy.curves import PowerCurve, pulses
from servetwin.energy.instance import busy_times, state_curve, step_curve, step_energy
from servetwin.energy.pool import (
    InstanceRecord,
    PoolRecord,
    add_surroundings,
    host_power_w,
    last_ns,
    no_curves,
    own_seconds,
)
from servetwin.energy.steps import Chunks, InstanceSteps, Spans, steps_of
from servetwin.step.work_columns import StepColumns

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Waves:
    """A group's waves, summed over its ranks; of each rank's steps, the wave and its share of the wave's tokens."""

    steps: InstanceSteps
    wave: Sequence[Integers]
    share: Sequence[Floats]


def record_ffn(pool: PoolPower, outcome: SimulationOutcome, rows: Sequence[Integers]) -> PoolRecord:
    """Return the record of a pool's FFN devices; each rank's steps take a share of a wave's energy by their tokens.

    Parameters
    ----------
    pool
        Of all FFN devices, with ``ffn_of``.
    rows
        As of `servetwin.energy.pool.record_pool`.
    """
    end_ns = last_ns(outcome)
    curves = no_curves()
    groups = groups_of(pool.ffn_of, outcome)
    devices = pool.accelerators * pool.instances // max(1, len(groups))
    of_group = replace(pool, accelerators=devices, instances=len(groups))
    records = [record for members in groups for record in _record(of_group, outcome, members, rows, curves, end_ns)]
    add_surroundings(pool, curves, end_ns)
    return PoolRecord(pool.name, pool.node.psu_efficiency, records, curves)


def groups_of(pool: str, outcome: SimulationOutcome) -> list[list[int]]:
    """Return the instances of each lockstep group of a pool; one that is alone is a group of one."""
    groups: dict[int, list[int]] = {}
    for number, spec in enumerate(outcome.instances):
        if spec.pool == pool:
            groups.setdefault(spec.group if spec.group >= 0 else -1 - number, []).append(number)
    return list(groups.values())


def _record(
    pool: PoolPower,
    outcome: SimulationOutcome,
    members: Sequence[int],
    rows: Sequence[Integers],
    curves: dict[str, list[PowerCurve]],
    end_ns: int,
) -> list[InstanceRecord]:
    """Return the records of one group's ranks, and add the curves of its FFN devices."""
    steps = [steps_of(outcome, number, rows[number]) for number in members]
    waves = waves_of(steps)
    above_standby, link_bytes = _wave_energy(pool, waves.steps)
    busy = busy_times(waves.steps)
    accelerators = (state_curve(pool, busy, end_ns), step_curve(waves.steps, above_standby))
    curves[ACCELERATORS] += accelerators
    host_w = host_power_w(pool)
    if host_w and len(busy[0]):
        curves["host"].append(pulses(*busy, np.full(len(busy[0]), host_w)))
    wave_j = above_standby + host_w * own_seconds(waves.steps)
    for name in ("links", "switches"):
        joules = pool.node.parts[name].joules(link_bytes)
        if joules.any():
            curves[name].append(step_curve(waves.steps, joules))
            wave_j = wave_j + joules
    return [
        InstanceRecord(number, own, np.zeros(len(wave)), wave_j[wave] * share, accelerators, pool.accelerators)
        for number, own, wave, share in zip(members, steps, waves.wave, waves.share, strict=True)
    ]


_SUMMED = [item.name for item in fields(StepColumns) if item.name != "decode_prompt_tokens"]
"""Columns of steps that every instance has; FFNs do not ask for prompts."""


def _wave_energy(pool: PoolPower, waves: InstanceSteps) -> tuple[Floats, Floats]:
    """Return the energy of waves beyond standby, and the bytes over links, of all FFN devices together.

    Those that share the tokens are alike: one of them has so much less of each wave.
    """
    dividing = pool.work.ranks.data
    part = StepColumns(*(getattr(waves.columns, name) / dividing for name in _SUMMED))
    energy = step_energy(replace(pool, accelerators=pool.work.accelerators), replace(waves, columns=part))
    return energy.above_standby * dividing, energy.link_bytes * dividing


def waves_of(steps: Sequence[InstanceSteps]) -> Waves:
    """Return the waves of ranks whose steps begin together."""
    starts, wave = np.unique(np.concatenate([own.start_ns for own in steps]), return_inverse=True)
    ends = np.zeros(len(starts), dtype=np.int64)
    np.maximum.at(ends, wave, np.concatenate([own.end_ns for own in steps]))
    columns = [
        np.bincount(wave, np.concatenate([getattr(own.columns, name) for own in steps]), minlength=len(starts))
        for name in _SUMMED
    ]
    sums = StepColumns(*(column.astype(np.float64) for column in columns))
    nothing, none = np.zeros(0, dtype=np.int64), np.zeros(0)
    empty = Spans(nothing, nothing, nothing, none, nothing), Chunks(nothing, nothing, none, none)
    waves = InstanceSteps(starts, ends, sums, *empty)
    of_rank = np.split(wave.astype(np.int64), np.cumsum([len(own.start_ns) for own in steps])[:-1])
    shares = [
        own.columns.num_tokens / np.maximum(sums.num_tokens[number], 1e-9)
        for own, number in zip(steps, of_rank, strict=True)
    ]
    return Waves(waves, of_rank, shares)
