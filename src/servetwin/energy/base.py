"""What the energy model is made of: nodes, pools, and traffic that other rooms count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError
from servetwin.hardware.power import DevicePower
from servetwin.step.clocks import Governor
from servetwin.step.encoder_time import EncoderWork
from servetwin.step.work_columns import StepColumns, StepWork

ACCELERATORS = "accelerators"

ENCODERS = "encoders"
"""The name under which encoders are accounted."""

COMPONENTS = (
    ACCELERATORS,
    "host",
    "dram",
    "cxl",
    "pim",
    "links",
    "switches",
    "nics",
    "storage",
    "base",
    "power_supplies",
    "cooling",
)
"""All that draws power, in the order of tables; what supplies lose and cooling takes comes last."""

BITS_PER_BYTE = 8
JOULES_PER_PJ = 1e-12


@dataclass(frozen=True, slots=True)
class Part:
    """Equal parts of a node: how many, what each draws at rest, and what a bit through them takes.

    Attributes
    ----------
    count
        In one node.
    idle_w
        Of each.
    pj_per_bit
        Energy per bit that passes, in picojoules.
    """

    count: int = 0
    idle_w: float = 0.0
    pj_per_bit: float = 0.0

    @property
    def background_w(self) -> float:
        """What all of them draw at rest."""
        return self.count * self.idle_w

    def joules(self, num_bytes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the energy of some bytes."""
        return num_bytes * (BITS_PER_BYTE * self.pj_per_bit * JOULES_PER_PJ)


@dataclass(frozen=True, slots=True)
class NodePower:
    """Power of one node beside its accelerators.

    Attributes
    ----------
    base_w
        Board, fans and all that never changes.
    host_idle_w, host_active_w, host_limit_w
        Of its processors: at rest; more for each accelerator that runs a step (its worker polls); the most, or None.
    psu_efficiency
        Share of what the node takes from the wall that reaches its parts.
    """

    base_w: float = 0.0
    host_idle_w: float = 0.0
    host_active_w: float = 0.0
    host_limit_w: float | None = None
    dram: Part = field(default_factory=Part)
    cxl: Part = field(default_factory=Part)
    links: Part = field(default_factory=Part)
    switches: Part = field(default_factory=Part)
    nics: Part = field(default_factory=Part)
    storage: Part = field(default_factory=Part)
    psu_efficiency: float = 1.0

    def __post_init__(self) -> None:
        if self.host_limit_w is not None and self.host_idle_w > self.host_limit_w:
            raise InputError(f"host idle_w ({self.host_idle_w:g}) is above its limit_w ({self.host_limit_w:g})")

    @property
    def parts(self) -> dict[str, Part]:
        """The parts by the names of `COMPONENTS`."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name in COMPONENTS}


@dataclass(frozen=True, slots=True)
class Thermal:
    """A device's temperature: it rises with power over a resistance, at the pace of a time constant.

    Steady: ``ambient_c + watts x resistance_c_per_w``. It throttles at ``throttle_c``: a cap on sustained power.
    """

    resistance_c_per_w: float
    ambient_c: float
    throttle_c: float
    time_constant_s: float = 60.0

    @property
    def sustained_w(self) -> float:
        """The power at which the steady temperature is the one at which it throttles."""
        return (self.throttle_c - self.ambient_c) / self.resistance_c_per_w


class MemoryEnergy(Protocol):
    """What memory that computes takes beside one instance's accelerators."""

    idle_w: float
    """Of all of it."""

    def steps_j(self, steps: StepColumns) -> NDArray[np.float64]:
        """Return the energy of steps beyond idle power, in joules."""
        ...

    def link_bytes(self, steps: StepColumns) -> NDArray[np.float64]:
        """Return what steps move between the accelerators and it."""
        ...


class LoadedBytes(Protocol):
    """What an instance's steps load from memory beside its accelerators."""

    def of(self, steps: StepColumns) -> Mapping[str, NDArray[np.float64]]:
        """Return the bytes of each step by memory device."""
        ...


def memory_component(device: str) -> str:
    """Return the component that a memory device belongs to: CXL memory by its name, else the node's DRAM."""
    return "cxl" if device.casefold().startswith("cxl") else "dram"


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwarePower:
    """Power of equal accelerators in equal nodes.

    Attributes
    ----------
    device
        Power of one accelerator.
    accelerators
        Of one instance.
    instances
        Of the pool.
    node, node_accelerators
        Nodes, and how many accelerators each holds, used or not.
    sleep_after_s, sleep_w
        An instance's accelerators go to sleep when it has been idle so long; None: never.
    """

    name: str
    device: DevicePower
    accelerators: int
    instances: int
    node: NodePower = field(default_factory=NodePower)
    node_accelerators: int = 1
    sleep_after_s: float | None = None
    sleep_w: float = 0.0

    @property
    def nodes(self) -> int:
        """Nodes of the pool; the last may be partly empty."""
        return -(-self.accelerators * self.instances // self.node_accelerators)

    @property
    def spare_accelerators(self) -> int:
        """Accelerators in its nodes that belong to no instance; they are idle."""
        return self.nodes * self.node_accelerators - self.accelerators * self.instances


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPower(HardwarePower):
    """What the energy model knows of one pool.

    Attributes
    ----------
    work
        What steps compute over an instance's accelerators.
    governor
        What chose the clocks; None: all steps ran at the highest.
    ffn_of
        Of FFN devices: the pool whose attention ranks they serve; empty for all others.
    memory
        Memory that computes beside each instance's accelerators.
    loads
        What steps load of weights and KV that lie elsewhere.
    """

    work: StepWork
    governor: Governor | None = None
    thermal: Thermal | None = None
    memory: MemoryEnergy | None = None
    loads: LoadedBytes | None = None
    ffn_of: str = ""


class BatchWork(Protocol):
    """What encoders' batches compute."""

    def work(self, tokens: Sequence[int]) -> EncoderWork:
        """Return the work of a batch with so many embeddings of each request."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderPower(HardwarePower):
    """What the energy model knows of encoders, each of which is an instance of one accelerator.

    Attributes
    ----------
    work
        What their batches compute; None: it is not known, and ``busy_w`` counts.
    busy_w
        What an encoder draws while it runs a batch, at least its standby power; None: it follows from the work.
    """

    work: BatchWork | None = None
    busy_w: float | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that another room moved through a part of a pool's nodes (KV in host memory, weights over CXL).

    Attributes
    ----------
    pool, component
        Whose, and which of ``dram``, ``cxl``, ``links``, ``switches``, ``nics``.
    start_ns, end_ns, num_bytes
        Columns of one length; the energy is spread over the time.
    """

    pool: str
    component: str
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    num_bytes: NDArray[np.float64]
