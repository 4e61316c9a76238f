"""Where the weights of one pipeline stage lie: on the accelerator, or on which memory device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

from servetwin.core.errors import InputError
from servetwin.core.units import GB
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.parallel import Parallelism, stage_layers
from servetwin.memory.devices import MemoryDevice
from servetwin.memory.weights import AT_ENDS, end_weight_bytes, layer_weight_bytes, local_experts

Access: TypeAlias = Literal["copy", "direct"]
Eviction: TypeAlias = Literal["lru", "lfu"]

HOME = "accelerator"
"""The place of weights that do not leave."""


@dataclass(frozen=True, slots=True)
class ExpertCache:
    """Routed experts that lie elsewhere and come when a step activates them.

    Attributes
    ----------
    device
        Where they lie.
    cached
        Experts of each layer that one rank keeps on the accelerator.
    eviction
        Which of them it keeps: the last used, or the most often used.
    """

    device: str
    cached: int = 0
    eviction: Eviction = "lru"


@dataclass(frozen=True, slots=True)
class KvElsewhere:
    """Keys and values of a part of every request's tokens, which each step reads layer by layer.

    Attributes
    ----------
    device
        Where they lie.
    share
        Part of the tokens, above 0 and below 1.
    """

    device: str
    share: float


@dataclass(frozen=True, slots=True)
class Placement:
    """Rules of where weights lie; what no rule names stays on the accelerator.

    Attributes
    ----------
    layers
        Device of each layer that leaves, by its index in the model.
    operators
        Device (or `HOME`) of an operator in all layers, or at the model's ends: it overrides ``layers``.
    experts
        Routed experts that are loaded on demand; None: they go with their layer.
    kv
        Keys and values that lie elsewhere; None: all stay.
    prefetch
        Buffers, of one layer each, into which weights are loaded ahead: vLLM's ``offload_prefetch_step``. 2: while a
        layer computes, the next one's weights travel. 0: they are loaded when the layer's turn comes.
    access
        ``copy``: weights are copied into the accelerator's memory and read from there. ``direct``: kernels read them
        over the link, in place of the accelerator's memory (vLLM's ``cpu_offload_gb``).
    at_start
        Every load of a step is issued at its start, operator by operator, with buffers for all (LLMServingSim).
    frees_memory
        Whether what leaves gives room to KV (LLMServingSim: not).
    """

    layers: Mapping[int, str] = field(default_factory=dict)
    operators: Mapping[str, str] = field(default_factory=dict)
    experts: ExpertCache | None = None
    kv: KvElsewhere | None = None
    prefetch: int = 2
    access: Access = "copy"
    at_start: bool = False
    frees_memory: bool = True

    @property
    def moves_nothing(self) -> bool:
        """Whether all weights, keys and values stay."""
        away = self.layers or self.experts or self.kv
        return not away and all(name == HOME for name in self.operators.values())

    def device_of(self, operator: str, layer: int | None) -> str | None:
        """Return where an operator's weights lie; None: on the accelerator."""
        if operator == "experts" and self.experts is not None:
            return None
        name = self.operators.get(operator) or (None if layer is None else self.layers.get(layer))
        return None if name == HOME else name


@dataclass(frozen=True)
class PlacedWeights:
    """The weights of one pipeline stage on one rank, and where they lie.

    Attributes
    ----------
    devices
        By name.
    dtype, kv_cache_dtype
        Formats of the weights and of the KV cache; None: as published.
    """

    architecture: ModelArchitecture
    ranks: Parallelism
    placement: Placement
    devices: Mapping[str, MemoryDevice]
    dtype: str | None = None
    kv_cache_dtype: str | None = None

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of one token's keys and values in one layer on one rank, of all that are elsewhere or not."""
        per_token = self.architecture.kv_bytes_per_token(dtype=self.kv_cache_dtype or self.dtype, ranks=self.ranks)
        return per_token / len(self.layers) / self.ranks.decode_context

    @property
    def kv_here(self) -> float:
        """Part of the KV cache that takes the accelerator's memory: what stays, and buffers for one layer's rest."""
        kv = self.placement.kv
        if kv is None:
            return 1.0
        return min(1.0, 1.0 - kv.share + max(1, self.placement.prefetch) * kv.share / len(self.layers))

    @cached_property
    def layers(self) -> Sequence[Mapping[str, tuple[str, int]]]:
        """Device and bytes of each operator that left, for each layer of the stage."""
        parallel = self.ranks
        total = self.architecture.num_hidden_layers
        indices = stage_layers(total, parallel.pipeline, parallel.stage, parallel.partition)
        return [
            self._away(layer_weight_bytes(self.architecture, index, parallel, self.dtype), index) for index in indices
        ]

    @cached_property
    def ends(self) -> Mapping[str, tuple[str, int]]:
        """Device and bytes of embedding, final norm and LM head, of those that left; a tied head is the embedding."""
        sizes = dict(end_weight_bytes(self.architecture, self.ranks, self.dtype))
        away = self._away(sizes, None)
        if self.ranks.is_last_stage and "lm_head" not in sizes and "embedding" in away:
            away["lm_head"] = away["embedding"]
        return away

    def _away(self, sizes: Mapping[str, int], layer: int | None) -> dict[str, tuple[str, int]]:
        found = {}
        for operator, num_bytes in sizes.items():
            device = self.placement.device_of(operator, layer)
            if device is not None:
                found[operator] = (device, num_bytes)
        return found

    @cached_property
    def expert_bytes(self) -> int:
        """Bytes of one routed expert of one layer on one rank, on average."""
        sizes = self._expert_layers
        return 0 if not sizes else sum(sizes) // len(sizes) // local_experts(self.architecture, self.ranks)

    @property
    def _expert_layers(self) -> list[int]:
        parallel = self.ranks
        total = self.architecture.num_hidden_layers
        indices = stage_layers(total, parallel.pipeline, parallel.stage, parallel.partition)
        sizes = (layer_weight_bytes(self.architecture, index, parallel, self.dtype) for index in indices)
        return [size["experts"] for size in sizes if "experts" in size]

    @cached_property
    def bytes_of_layers(self) -> Mapping[str, int]:
        """Bytes of the layers' weights that lie on each device and come with their layer, of one rank."""
        found: dict[str, int] = {}
        for layer in self.layers:
            for device, num_bytes in layer.values():
                found[device] = found.get(device, 0) + num_bytes
        return found

    @cached_property
    def bytes_by_device(self) -> Mapping[str, int]:
        """Bytes of weights that lie on each device, of one rank."""
        found = dict(self.bytes_of_layers)
        ends = dict(self.ends)
        if "lm_head" not in end_weight_bytes(self.architecture, self.ranks, self.dtype):
            ends.pop("lm_head", None)  # tied: it is the embedding
        for device, num_bytes in ends.values():
            found[device] = found.get(device, 0) + num_bytes
        experts = self.placement.experts
        if experts is not None:
            found[experts.device] = found.get(experts.device, 0) + sum(self._expert_layers)
        return found

    @cached_property
    def buffer_bytes(self) -> int:
        """Bytes of the accelerator into which weights are loaded: prefetched layers, experts that are not cached."""
        placement = self.placement
        largest = max((sum(size for _, size in layer.values()) for layer in self.layers), default=0)
        head = self.ends.get("lm_head", ("", 0))[1]
        copies = max(1, placement.prefetch) if placement.access == "copy" else 0
        total = copies * largest + (head if copies else 0)
        if placement.experts is not None:
            local = local_experts(self.architecture, self.ranks)
            total += max(0, local - placement.experts.cached) * self.expert_bytes
        return total

    @cached_property
    def freed_bytes(self) -> int:
        """Bytes of one accelerator that are no longer weights' (below 0 where buffers take more than left)."""
        if not self.placement.frees_memory or self.placement.moves_nothing:
            return 0
        freed = sum(self.bytes_by_device.values()) - self.buffer_bytes
        experts = self.placement.experts
        if experts is not None:
            freed -= experts.cached * self.expert_bytes * len(self._expert_layers)
        return freed


def check_fits(stages: Sequence[PlacedWeights], ranks_per_stage: int, where: str) -> None:
    """Raise an InputError where a memory device is too small for what lies there, of all ranks of a replica."""
    devices = stages[0].devices
    for name, device in devices.items():
        needed = sum(stage.bytes_by_device.get(name, 0) for stage in stages) * ranks_per_stage
        if needed > device.capacity_bytes:
            raise InputError(
                f"the weights placed on {name!r} are {needed / GB:.2f} GB over all ranks of a replica, it holds "
                f"{device.capacity_bytes / GB:.2f} GB; place fewer layers or experts there, or give it more "
                "capacity_gb",
                where=where,
            )


def check_operators(placement: Placement, architecture: ModelArchitecture, where: str) -> None:
    """Raise an InputError where a rule names layers or experts that the model has not."""
    beyond = [index for index in placement.layers if not 0 <= index < architecture.num_hidden_layers]
    if beyond:
        raise InputError(
            f"layer {beyond[0]} does not exist: {architecture.name} has layers 0 to "
            f"{architecture.num_hidden_layers - 1}",
            where=f"{where}.layers",
        )
    held = {name for layer in range(architecture.num_hidden_layers) for name in _operators_of(architecture, layer)}
    for name in placement.operators:
        if name not in held and name not in AT_ENDS:
            known = ", ".join(sorted(held | set(AT_ENDS)))
            raise InputError(f"{architecture.name} has no {name!r}; it has {known}", where=f"{where}.operators.{name}")
    if placement.experts is not None and not architecture.is_moe:
        raise InputError(f"{architecture.name} has no experts; leave this out", where=f"{where}.experts")


def _operators_of(architecture: ModelArchitecture, layer: int) -> Mapping[str, int]:
    return layer_weight_bytes(architecture, layer, Parallelism())
