"""LLMServingSim's power model (FORMATS of the reference data, section 8), for ``--mode lss``.

A few constants per node, and energies on top: accelerators have one active power whatever they compute, processors are
busier while they are. Each of its peculiarities is a switch of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import InstanceSpec, SimulationOutcome
from servetwin.core.units import NS_PER_S
from servetwin.energy.base import ACCELERATORS, LoadedBytes, MemoryEnergy, Part, Traffic
from servetwin.energy.curves import PowerCurve, constant, pulses
from servetwin.energy.instance import busy_times, step_curve
from servetwin.energy.model import Energy, rows_by_instance
from servetwin.energy.pool import InstanceRecord, PoolRecord, last_ns, no_curves
from servetwin.energy.steps import InstanceSteps, steps_of
from servetwin.step.base import StepModel, StepShape
from servetwin.step.work_columns import StepColumns

Floats = NDArray[np.float64]

CPU_SHARE = 0.7
"""Use of the processors while an accelerator is active."""

OUTSIDE_LAYERS = ("all_reduce", "host_io", "host", "attention_pim")
"""Parts of a step that are no time of an accelerator's layer: communication, memory, host."""

BUCKET_TOKENS = 64
"""Which part of a step its layers take is looked up once for mean contexts that agree to so many tokens."""


@dataclass(frozen=True, slots=True)
class LssAccelerator:
    """Its powers, and how long standby lasts, in seconds."""

    idle_w: float
    standby_w: float
    active_w: float
    standby_s: float


@dataclass(frozen=True, slots=True)
class LssInstancePower:
    """Accelerators of an instance, and what LLMServingSim sends among them per token."""

    accelerators: int
    hardware: str
    ranks: int
    """Of tensor parallelism: so many accelerators are active at a time, also in a pipeline."""
    all_reduce_bytes_per_token: float = 0.0
    memory: MemoryEnergy | None = None
    """Memory that computes beside them; its energy, and that of what passes to it and back, is the DRAM's."""
    loads: LoadedBytes | None = None
    """Weights and KV that lie elsewhere: all of it counts as the DRAM's."""


@dataclass(frozen=True, slots=True)
class LssNode:
    """A node's ``power`` object.

    Attributes
    ----------
    instances
        By name.
    cpu_idle_w, cpu_active_w, cpu_util
        Its processors.
    dimms
        Modules of memory: ``floor(cpu_mem.mem_size / dimm_size)``.
    """

    name: str
    base_w: float
    accelerators: Mapping[str, LssAccelerator]
    instances: Mapping[str, LssInstancePower]
    cpu_idle_w: float
    cpu_active_w: float
    cpu_util: float
    dimms: Part
    links: Part
    nics: Part
    storage: Part

    @property
    def cpu_w(self) -> float:
        """The processors' constant power."""
        return self.cpu_idle_w + (self.cpu_active_w - self.cpu_idle_w) * self.cpu_util

    @property
    def cpu_boost_w(self) -> float:
        """What an active accelerator adds."""
        return (self.cpu_active_w - self.cpu_idle_w) * max(CPU_SHARE - self.cpu_util, 0.0)


@dataclass(frozen=True, slots=True)
class LssEnergyModel:
    """All nodes, and the switches.

    Attributes
    ----------
    standby_remaining
        ``total_gap``: after the first poll what remains of standby is reckoned from the whole gap, so that the last
        poll counts nothing; ``exact``: standby lasts as long as it says.
    poll_s
        Time between two polls of an idle instance.
    active_time
        ``layers``: an accelerator is active in layers only, not while it communicates or loads; ``steps``: all along.
    """

    nodes: Sequence[LssNode]
    standby_remaining: str = "total_gap"
    poll_s: float = 1e-3
    active_time: str = "layers"

    def measure(self, outcome: SimulationOutcome, traffic: Sequence[Traffic] = ()) -> Energy:
        """Return the energy of an outcome; traffic counts where its ``pool`` is a node's name."""
        rows = rows_by_instance(outcome)
        return Energy([self._node(node, outcome, rows, traffic) for node in self.nodes], outcome)

    def _node(
        self,
        node: LssNode,
        outcome: SimulationOutcome,
        rows: Sequence[NDArray[np.int64]],
        traffic: Sequence[Traffic],
    ) -> PoolRecord:
        end_ns, curves = last_ns(outcome), no_curves()
        for name, watts in (
            ("base", node.base_w),
            ("host", node.cpu_w),
            ("dram", node.dimms.background_w),
            ("links", node.links.background_w),
            ("nics", node.nics.background_w),
            ("storage", node.storage.background_w),
        ):
            curves[name].append(constant(watts, end_ns))
        instances = [
            self._instance(
                node,
                spec,
                i,
                steps_of(outcome, i, rows[i], prompts=node.instances[spec.name].memory is not None),
                curves,
                end_ns,
            )
            for i, spec in enumerate(outcome.instances)
            if spec.name in node.instances
        ]
        parts = {"dram": node.dimms, "links": node.links}
        for item in traffic:
            if item.pool == node.name and item.component in parts:
                joules = parts[item.component].joules(item.num_bytes)
                lasting = np.maximum(item.end_ns - item.start_ns, 1)
                curves[item.component].append(pulses(item.start_ns, item.start_ns + lasting, joules / lasting * 1e9))
        return PoolRecord(node.name, 1.0, instances, curves)

    def _instance(
        self,
        node: LssNode,
        spec: InstanceSpec,
        number: int,
        steps: InstanceSteps,
        curves: dict[str, list[PowerCurve]],
        end_ns: int,
    ) -> InstanceRecord:
        own = node.instances[spec.name]
        device = node.accelerators[own.hardware]
        active_s = steps.seconds * self._active_share(spec, steps)
        accelerators_j = (device.active_w - device.idle_w) * own.ranks * active_s
        host_j = node.cpu_boost_w * active_s
        link_j = node.links.joules(own.all_reduce_bytes_per_token * steps.columns.num_tokens)
        standby = self._standby(device, own.accelerators, busy_times(steps), end_ns)
        idle = constant(device.idle_w * own.accelerators, end_ns)
        own_curves = (idle, standby, step_curve(steps, accelerators_j))
        curves[ACCELERATORS] += own_curves
        curves["host"].append(step_curve(steps, host_j))
        curves["links"].append(step_curve(steps, link_j))
        step_j = accelerators_j + host_j + link_j
        if own.memory is not None:
            passing_j = node.dimms.joules(own.memory.link_bytes(steps.columns))
            memory_j = own.memory.steps_j(steps.columns) + passing_j
            curves["dram"].append(step_curve(steps, memory_j))
            step_j = step_j + memory_j
        if own.loads is not None:
            loads_j = node.dimms.joules(np.asarray(sum(own.loads.of(steps.columns).values())))
            curves["dram"].append(step_curve(steps, loads_j))
            step_j = step_j + loads_j
        return InstanceRecord(number, steps, np.zeros_like(step_j), step_j, own_curves, own.accelerators)

    def _standby(
        self, device: LssAccelerator, count: int, busy: tuple[NDArray[np.int64], NDArray[np.int64]], end_ns: int
    ) -> PowerCurve:
        start, end = busy
        lasts_s = device.standby_s
        if self.standby_remaining == "total_gap":
            lasts_s = max(lasts_s - self.poll_s, min(lasts_s, self.poll_s))
        following = np.append(start[1:], end_ns)[: len(end)]
        until = np.minimum(following, end + round(min(lasts_s, 1e9) * NS_PER_S))
        watts = (device.standby_w - device.idle_w) * count
        return pulses(end, np.maximum(until, end), np.full(len(end), float(watts)))

    def _active_share(self, spec: InstanceSpec, steps: InstanceSteps) -> Floats | float:
        model = spec.step_model
        if self.active_time == "steps" or model is None:
            return 1.0
        return _shares_of_layers(model, steps.columns)


def _shares_of_layers(model: StepModel, columns: StepColumns) -> Floats:
    """Return which part of each step its layers take; looked up once for each batch size and mean context."""
    known: dict[tuple[int, int, int], float] = {}
    shares = np.empty(len(columns.num_decodes))
    names = ("num_decodes", "decode_kv_tokens", "prefill_tokens", "prefill_context")
    rows = zip(*(getattr(columns, name).tolist() for name in names), strict=True)
    for i, (decodes, kv, new, context) in enumerate(rows):
        mean = round(kv / decodes) if decodes else 0
        key = int(decodes), round(new), mean // BUCKET_TOKENS
        if key not in known:
            chunks = ((key[1], round(context)),) if key[1] else ()
            shape = StepShape(key[0], round(kv), chunks, mean, mean, decode_prompts=(mean,) * key[0])
            known[key] = _share_of_layers(model, shape)
        shares[i] = known[key]
    return shares


def _share_of_layers(model: StepModel, shape: StepShape) -> float:
    parts = model.breakdown_ns(shape)
    outside = sum(parts.get(name, 0.0) for name in OUTSIDE_LAYERS)
    return 1.0 - outside / max(sum(parts.values()), 1e-9)
