"""How many KV blocks an instance has: what the engine's share of memory leaves, worked out part by part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from servetwin.core.errors import InputError
from servetwin.core.units import GIB
from servetwin.hardware.base import Device
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.checks import check_parallelism
from servetwin.llm.parallel import Parallelism
from servetwin.llm.parts import LatentAttention
from servetwin.memory.activations import activation_bytes, peak_by_phase
from servetwin.memory.overheads import (
    DEFAULT_COEFFICIENTS,
    LEAST_CONTEXT_BYTES,
    Coefficients,
    collective_bytes,
    driver_bytes,
    graph_bytes,
    non_torch_bytes,
)
from servetwin.memory.profiling import ProfilingStep

RESERVED_PARTS = (
    "rotary_cache",
    "activations",
    "logits",
    "compilation",
    "non_torch",
    "collectives",
    "cuda_graphs",
    "reserve",
)
"""What the engine's share of memory holds beside weights and KV cache; ``reserve`` if the user gave one figure."""

DEFAULT_STEP = ProfilingStep()


@dataclass(frozen=True, slots=True)
class KvCapacity:
    """The KV cache of one instance, and the figures that it follows from, each per rank.

    Attributes
    ----------
    num_blocks
        What vLLM calls ``num_gpu_blocks`` (its null block included).
    memory_bytes
        The share of the device that the engine may use; weights, reserve and blocks fit in it.
    reserve_bytes
        All else within that share; the sum of ``parts``.
    parts
        ``reserve_bytes`` by what it is for, see `RESERVED_PARTS`.
    device_bytes, driver_bytes
        The memory that the device reports, and what its driver keeps of it.
    phase
        The phase of vLLM's profiling step whose peak counts: ``forward``, ``sampling`` or ``compilation``.
    """

    num_blocks: int
    block_bytes: int
    memory_bytes: int
    weight_bytes: int
    reserve_bytes: int
    parts: Mapping[str, int] = field(default_factory=dict)
    device_bytes: int = 0
    driver_bytes: int = 0
    phase: str = ""

    @property
    def breakdown(self) -> dict[str, int]:
        """The device's reported memory by what it goes to, in bytes; the parts add up to it.

        ``unrequested`` is what ``gpu_memory_utilization`` leaves: the CUDA context, collectives' first buffers and,
        where they are not counted, CUDA graphs lie there. ``rest`` is less than a block.
        """
        if not self.device_bytes:
            return {}
        kv_cache = self.num_blocks * self.block_bytes
        used = self.weight_bytes + self.reserve_bytes + kv_cache
        return {
            "driver": self.driver_bytes,
            "unrequested": self.device_bytes - self.driver_bytes - self.memory_bytes,
            "weights": self.weight_bytes,
            **{name: num_bytes for name, num_bytes in self.parts.items() if num_bytes},
            "kv_cache": kv_cache,
            "rest": self.memory_bytes - used,
        }


def kv_capacity(
    architecture: ModelArchitecture,
    device: Device,
    *,
    tensor_parallel_size: int = 1,
    parallelism: Parallelism | None = None,
    gpu_memory_utilization: float = 0.9,
    block_size: int = 16,
    dtype: str | None = None,
    kv_cache_dtype: str | None = None,
    step: ProfilingStep = DEFAULT_STEP,
    reserve_bytes: int | None = None,
    coefficients: Coefficients = DEFAULT_COEFFICIENTS,
    where: str | None = None,
    away_bytes: int = 0,
    kv_here: float = 1.0,
) -> KvCapacity:
    """Return the KV capacity of an instance of ``tensor_parallel_size`` equal devices, as vLLM works it out.

    Parameters
    ----------
    parallelism
        One stage's rank, for more than tensor parallelism. Of several stages the one with the fewest blocks counts.
    gpu_memory_utilization
        Share of the memory that CUDA reports (the device's, less the driver's) which the engine takes, above 0 and at
        most 1.
    block_size
        Tokens per block.
    dtype, kv_cache_dtype
        Number formats of the weights (None: as published) and of the KV cache (None: as the weights).
    step
        Limits of the step by which vLLM measures its peak memory, and the version that counts it.
    reserve_bytes
        One figure for everything but weights and KV cache, instead of working it out.
    coefficients
        The two figures that are not counted tensor by tensor.
    where
        The key's path, for messages.
    away_bytes
        Weights of one rank that lie elsewhere, less the buffers into which they are loaded.
    kv_here
        Part of each block that takes the device's memory, where the rest lies elsewhere.

    Raises
    ------
    InputError
        If the model does not divide among the ranks, or does not fit; the message has the numbers, and what would fit.
    """
    parallelism = parallelism or Parallelism(tensor_parallel_size)
    check_parallelism(architecture, parallelism, where=where)
    if not 0 < gpu_memory_utilization <= 1:
        raise InputError(
            f"gpu_memory_utilization must be above 0 and at most 1, got {gpu_memory_utilization}", where=where
        )
    sizing = Sizing(
        architecture,
        device,
        parallelism,
        gpu_memory_utilization,
        block_size,
        dtype,
        kv_cache_dtype,
        step,
        reserve_bytes,
        coefficients,
        away_bytes,
        kv_here,
    )
    if not sizing.context_fits:
        raise InputError(sizing.context_message, where=where)
    capacity = sizing.capacity
    if capacity.num_blocks < 1:
        from servetwin.memory.alternatives import does_not_fit

        raise InputError(does_not_fit(sizing), where=where)
    return capacity


@dataclass(frozen=True)
class Sizing:
    """The parameters of `kv_capacity`, and what follows from them, whether the model fits or not."""

    architecture: ModelArchitecture
    device: Device
    parallelism: Parallelism
    utilization: float
    block_size: int
    dtype: str | None
    kv_cache_dtype: str | None
    step: ProfilingStep
    reserve_bytes: int | None
    coefficients: Coefficients = DEFAULT_COEFFICIENTS
    away_bytes: int = 0
    kv_here: float = 1.0

    @property
    def ranks(self) -> int:
        """Devices that share each layer."""
        return self.parallelism.tensor

    @property
    def cuda_bytes(self) -> int:
        """What CUDA reports as the device's total memory."""
        return self.device.memory_bytes - driver_bytes(self.device)

    @property
    def context_fits(self) -> bool:
        """Whether the engine's share leaves room for the CUDA context; vLLM refuses to start otherwise."""
        least = LEAST_CONTEXT_BYTES if self.device.vendor == "NVIDIA" else 0
        return int(self.cuda_bytes * self.utilization) <= self.cuda_bytes - least

    @property
    def context_message(self) -> str:
        """What to say if not."""
        most = 1 - LEAST_CONTEXT_BYTES / self.cuda_bytes
        return (
            f"gpu_memory_utilization {self.utilization:g} of {self.device.name}'s {self.cuda_bytes / GIB:.2f} GiB "
            f"leaves no room for the CUDA context ({LEAST_CONTEXT_BYTES / GIB:.2f} GiB or more): vLLM would not start; "
            f"give at most {int(most * 1000) / 1000:g}"
        )

    @cached_property
    def capacity(self) -> KvCapacity:
        """The capacity; ``num_blocks`` is below 1 where nothing fits."""
        weights = self.architecture.weight_bytes(dtype=self.dtype, ranks=self.parallelism) - self.away_bytes
        per_token = self.architecture.kv_bytes_per_token(
            dtype=self.kv_cache_dtype or self.dtype, ranks=self.parallelism
        )
        usable = int(self.cuda_bytes * self.utilization)
        phase, parts = self._reserve()
        reserve = sum(parts.values())
        block = self.block_size * per_token // self.parallelism.decode_context  # whose ranks share a sequence's tokens
        block = math.ceil(block * self.kv_here)
        blocks = (usable - weights - reserve) // block
        return KvCapacity(
            blocks,
            block,
            usable,
            weights,
            reserve,
            parts,
            self.device.memory_bytes,
            driver_bytes(self.device),
            phase,
        )

    def _reserve(self) -> tuple[str, dict[str, int]]:
        if self.reserve_bytes is not None:
            return "", {"reserve": self.reserve_bytes}
        phases = peak_by_phase(self.architecture, self.device, self.parallelism, self.step, self.dtype)
        phase = max(phases, key=lambda name: sum(phases[name].values()))
        found = {
            **phases[phase],
            "rotary_cache": rotary_cache_bytes(self.architecture, self.dtype),
            "non_torch": non_torch_bytes(self.device, self.step, self.coefficients),
            "collectives": collective_bytes(self.device, self.parallelism.experts_group * self.parallelism.pipeline),
            "cuda_graphs": graph_bytes(self.architecture, self.device, self.step),
        }
        return phase, {name: found[name] for name in RESERVED_PARTS if name in found}


def rotary_cache_bytes(architecture: ModelArchitecture, dtype: str | None = None) -> int:
    """Return the table of cosines and sines, one row per position; vLLM loads it with the weights."""
    attention = architecture.attention
    rotated = attention.qk_rope_head_dim if isinstance(attention, LatentAttention) else attention.head_dim
    size = activation_bytes(architecture, dtype) if not isinstance(attention, LatentAttention) else 4
    return architecture.max_position_embeddings * rotated * size
