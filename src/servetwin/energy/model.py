"""The energy of a simulation: computed from what the instances wrote down, when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import SimulationOutcome
from servetwin.core.errors import InputError
from servetwin.core.units import NS_PER_S
from servetwin.energy.attribution import request_shares
from servetwin.energy.base import COMPONENTS, EncoderPower, PoolPower, Traffic
from servetwin.energy.curves import PowerCurve, total
from servetwin.energy.encoders import record_encoders
from servetwin.energy.ffn import record_ffn
from servetwin.energy.pool import PoolRecord, last_ns, record_pool
from servetwin.energy.traffic import embedding_transfers, kv_transfers

Floats = NDArray[np.float64]

MOST_POINTS = 1_000_000


@dataclass(frozen=True, slots=True)
class EnergyModel:
    """How the energy of a scenario is worked out.

    Attributes
    ----------
    pools
        By which the instances of an outcome are found.
    pue
        Power of the site by power of its computers.
    encoders
        Where there are any.
    """

    pools: Sequence[PoolPower]
    pue: float = 1.0
    encoders: EncoderPower | None = None

    def measure(self, outcome: SimulationOutcome, traffic: Sequence[Traffic] = ()) -> Energy:
        """Return the energy of an outcome; it must not change any more."""
        rows = rows_by_instance(outcome)
        traffic = [*traffic, *kv_transfers(outcome), *embedding_transfers(outcome)]
        records = [
            record_ffn(pool, outcome, rows) if pool.ffn_of else record_pool(pool, outcome, rows, traffic)
            for pool in self.pools
        ]
        if self.encoders is not None:
            records.append(record_encoders(self.encoders, outcome, traffic))
        return Energy(records, outcome, self.pue)


class Energy:
    """Power and energy of one simulation, from time 0 to its last event.

    Parameters
    ----------
    pools
        What each pool draws.
    outcome
        What the simulation left behind.
    pue
        Power of the site by power of its computers.
    """

    def __init__(self, pools: Sequence[PoolRecord], outcome: SimulationOutcome, pue: float = 1.0) -> None:
        self.pools = pools
        self.outcome = outcome
        self.pue = pue
        self.end_ns = last_ns(outcome)

    @property
    def duration_s(self) -> float:
        """From time 0 to the last event."""
        return self.end_ns / NS_PER_S

    @cached_property
    def pool_components_j(self) -> dict[str, dict[str, float]]:
        """Energy by pool and component, supplies' losses and cooling included."""
        return {record.name: self._components(record) for record in self.pools}

    def _components(self, record: PoolRecord) -> dict[str, float]:
        energies = {name: sum(curve.energy_j for curve in curves) for name, curves in record.curves.items()}
        return energies | self._losses(record, sum(energies.values()))

    def _losses(self, record: PoolRecord, used: float) -> dict[str, float]:
        wall = used / record.psu_efficiency
        return {"power_supplies": wall - used, "cooling": wall * (self.pue - 1.0)}

    @cached_property
    def components_j(self) -> dict[str, float]:
        """Energy by component."""
        pools = self.pool_components_j.values()
        return {name: sum(components[name] for components in pools) for name in COMPONENTS}

    @property
    def total_j(self) -> float:
        """All energy, at the site's meter."""
        return sum(self.components_j.values())

    def series(self, interval_s: float, pool: str | None = None) -> dict[str, Floats]:
        """Return mean power per interval: ``time_s`` (its start), each component and ``total``, in watts.

        Parameters
        ----------
        interval_s
            Resolution; the last interval ends with the run.
        pool
            One pool; None: all.

        Raises
        ------
        InputError
            For an interval that is no time, or so short that there are more than a million.
        """
        return self._between(self._bounds(interval_s), pool)

    def between(self, bounds_ns: NDArray[np.int64]) -> Floats:
        """Return all energy between consecutive times, in joules."""
        seconds = np.diff(bounds_ns) / NS_PER_S
        return np.asarray(self._between(bounds_ns, None)["total"] * seconds)

    def _between(self, bounds: NDArray[np.int64], pool: str | None) -> dict[str, Floats]:
        rows = {name: np.zeros(len(bounds) - 1) for name in COMPONENTS}
        for record in self.pools:
            if pool in (None, record.name):
                used = np.zeros(len(bounds) - 1)
                for name, curves in record.curves.items():
                    for curve in curves:
                        watts = curve.binned(bounds)
                        rows[name] += watts
                        used += watts
                wall = used / record.psu_efficiency
                rows["power_supplies"] += wall - used
                rows["cooling"] += wall * (self.pue - 1.0)
        return {"time_s": bounds[:-1] / NS_PER_S, **rows, "total": np.asarray(sum(rows.values()))}

    def _bounds(self, interval_s: float) -> NDArray[np.int64]:
        interval_ns = round(interval_s * NS_PER_S)
        if interval_ns < 1 or self.end_ns / interval_ns > MOST_POINTS:
            raise InputError(
                f"an interval of {interval_s:g} s over {self.duration_s:g} s; at most {MOST_POINTS:,} intervals"
            )
        return np.append(np.arange(0, self.end_ns, interval_ns, dtype=np.int64), self.end_ns)

    def accelerator_curve(self, instance: int) -> PowerCurve:
        """Return the exact power of one instance's accelerators."""
        for record in self.pools:
            for item in record.instances:
                if item.number == instance:
                    return total(item.accelerators)
        raise InputError(f"there is no instance number {instance}")

    @property
    def encoder_curves(self) -> list[PowerCurve]:
        """The exact power of each encoder's accelerator."""
        return [total(curves) for record in self.pools if record.encoders for curves in record.encoders.accelerators]

    @cached_property
    def step_j(self) -> float:
        """What the steps, and encoders' batches, take beyond standby and the rest of the nodes."""
        encoded_j = sum(record.encoders.request_j.sum() for record in self.pools if record.encoders)
        return float(encoded_j + sum(item.step_j.sum() for record in self.pools for item in record.instances))

    @cached_property
    def request_step_j(self) -> Floats:
        """Energy of each request's share of its steps, shape ``(requests,)``; they add up to ``step_j``."""
        joules = np.zeros(len(self.outcome.workload))
        for record in self.pools:
            if record.encoders is not None:
                joules += record.encoders.request_j
            for item in record.instances:
                joules += sum(request_shares(item.steps, item.step_j, item.decode_kv_j, len(joules)))
        return joules

    @cached_property
    def request_j(self) -> Floats:
        """Energy of each request: its steps, and of the rest as large a share; they add up to ``total_j``.

        Zero for all where no step ran.
        """
        own = self.request_step_j
        return own * (self.total_j / own.sum()) if own.sum() else own


def rows_by_instance(outcome: SimulationOutcome) -> list[NDArray[np.int64]]:
    """Return the requests whose prompt or output each instance computed, ascending."""
    served = np.asarray(outcome.requests.instance)
    rows = _grouped(served, len(outcome.instances))
    before = np.asarray(outcome.requests.prefill_instance)
    if (before >= 0).any():
        both = zip(rows, _grouped(np.where(before == served, -1, before), len(outcome.instances)), strict=True)
        rows = [np.sort(np.concatenate(pair)) for pair in both]
    return rows


def _grouped(instance: NDArray[np.integer], count: int) -> list[NDArray[np.int64]]:
    order = np.argsort(instance, kind="stable").astype(np.int64)
    bounds = np.searchsorted(instance[order], np.arange(count + 1))
    return [order[bounds[i] : bounds[i + 1]] for i in range(count)]
