"""Wiring of KV tiers: whose stores and queues are one, how many chunks fit, and how long they take."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from servetwin.cluster.base import InstanceSpec
from servetwin.core.errors import InputError
from servetwin.core.units import GB, us_to_ns
from servetwin.memory.tiers import TierDevice, TierSpec, TiersSpec, evictions
from servetwin.scenario.hardware import Replica
from servetwin.scenario.tier_options import Reach, TierOptions, TiersOptions

NODE_ACCELERATORS = 8
"""Of a node where nothing else is said."""


@dataclass(frozen=True, slots=True)
class KindDefaults:
    """Bandwidth (None: of the accelerators' PCIe links) and latency of a kind of tier."""

    gb_per_s: float | None
    latency_us: float


KINDS: Mapping[str, KindDefaults] = {
    "host": KindDefaults(None, 10.0),
    "cxl": KindDefaults(30.0, 10.0),
    "ssd": KindDefaults(7.0, 100.0),
    "remote": KindDefaults(12.5, 200.0),
}
"""Data sheets: one CXL 2.0 x8 expander, one PCIe 4 NVMe disk, a network of 100 Gbit/s; latencies are assumptions."""

UNKNOWN_PCIE_GB_PER_S = 25.0


def with_tiers(
    specs: Sequence[InstanceSpec], replicas: Sequence[Replica], common: TiersOptions | None
) -> tuple[InstanceSpec, ...]:
    """Return the instances with their tiers.

    Parameters
    ----------
    common
        Tiers of all pools that name none of their own; these may be shared across pools.

    Raises
    ------
    InputError
        If a tier is smaller than a chunk, a pool cannot have tiers, or pools that share one differ in their KV.
    """
    by_pool = {replica.pool.name: replica for replica in replicas}
    builders: dict[str, _Builder] = {}
    if common is not None:
        builders[""] = _Builder(common, "tiers", "")
    for replica in replicas:
        if replica.pool.tiers is not None:
            builders[replica.pool.name] = _Builder(
                replica.pool.tiers, f"{replica.where}.tiers", f"{replica.pool.name}-"
            )
    tiered = []
    for spec in specs:
        builder = builders.get(spec.pool) or builders.get("")
        tiered.append(spec if builder is None else replace(spec, tiers=builder.tiers(spec, by_pool[spec.pool])))
    return tuple(tiered)


class _Builder:
    """Makes the tiers of the instances that share one description, in their order."""

    def __init__(self, options: TiersOptions, where: str, prefix: str) -> None:
        self._prefix = prefix
        self._options = options
        self._where = where
        self._instances = 0
        self._tiers: dict[Hashable, TierSpec] = {}
        self._devices: dict[Hashable, TierDevice] = {}
        self._first: tuple[Replica, tuple[int, int, str | None]] | None = None

    def tiers(self, spec: InstanceSpec, replica: Replica) -> TiersSpec:
        """Return the tiers of the next instance."""
        if not replica.engine.enable_prefix_caching:
            message = (
                "KV tiers need enable_prefix_caching (prompts are found by prefix): turn it on, or leave tiers out"
            )
            raise InputError(message, where=f"{replica.where}.engine.enable_prefix_caching")
        if not spec.kv_bytes_per_block:
            raise InputError("KV tiers need to know the size of KV; name a model", where=f"{replica.where}.model")
        options, block_size = self._options, spec.settings.block_size
        chunk_tokens = options.chunk_tokens // block_size * block_size
        if not chunk_tokens:
            message = f"a chunk of {options.chunk_tokens} tokens is smaller than a KV block of {block_size}"
            raise InputError(message, where=f"{self._where}.chunk_tokens")
        chunk_bytes = chunk_tokens // block_size * spec.kv_bytes_per_block
        self._check_alike(replica, (chunk_tokens, chunk_bytes, replica.model_name))
        per_node = options.instances_per_node or max(1, NODE_ACCELERATORS // replica.engine.accelerators_per_rank)
        places: dict[Reach, int] = {
            "instance": self._instances,
            "node": self._instances // per_node,
            "cluster": 0,
        }
        self._instances += 1
        return TiersSpec(
            tiers=tuple(self._tier(number, places, chunk_bytes) for number in range(len(options.levels))),
            devices=tuple(self._device(number, places, replica) for number in range(len(options.levels))),
            chunk_tokens=chunk_tokens,
            write=options.write,
            saves=options.saves,
            load=options.load,
            instant_writes=options.instant_writes,
            promote=options.promote,
            preempted=options.preempted,
        )

    def _check_alike(self, replica: Replica, kv: tuple[int, int, str | None]) -> None:
        """Check that pools that share a tier have the same KV."""
        if self._first is None:
            self._first = (replica, kv)
        other, others = self._first
        if others != kv and any(tier.shared != "instance" for tier in self._options.levels):
            raise InputError(
                f"pools {other.pool.name} and {replica.pool.name} share a tier, but one keeps chunks of {others[0]} "
                f"tokens in {others[1]:,} bytes of {others[2]!r}, the other of {kv[0]} tokens in {kv[1]:,} bytes of "
                f"{kv[2]!r}; give each pool tiers of its own",
                where=self._where,
            )

    def _tier(self, number: int, places: Mapping[Reach, int], chunk_bytes: int) -> TierSpec:
        """Return a tier: the one that an instance of the same place has, or a new one."""
        place = places[self._options.levels[number].shared]
        if (number, place) not in self._tiers:
            self._tiers[number, place] = self._new_tier(number, place, chunk_bytes)
        return self._tiers[number, place]

    def _new_tier(self, number: int, place: int, chunk_bytes: int) -> TierSpec:
        options = self._options.levels[number]
        where, name = f"{self._where}.levels[{number}]", self._prefix + (options.name or options.kind)
        capacity = None if options.capacity_gb is None else int(options.capacity_gb * GB) // chunk_bytes
        if capacity == 0:
            raise InputError(
                f"tier {name!r} of {options.capacity_gb:g} GB is smaller than one chunk of "
                f"{self._options.chunk_tokens} tokens ({chunk_bytes / GB:.3g} GB)",
                where=f"{where}.capacity_gb",
            )
        evictions.get(options.eviction, where=f"{where}.eviction")
        return TierSpec(
            name=name if options.shared == "cluster" else f"{name}-{place}",
            kind=options.kind,
            capacity_chunks=capacity,
            chunk_bytes=chunk_bytes,
            lookup_ns=us_to_ns(options.lookup_us),
            eviction=options.eviction,
        )

    def _device(self, number: int, places: Mapping[Reach, int], replica: Replica) -> TierDevice:
        options = self._options.levels[number]
        key = (number, places[options.queue or options.shared])
        if key not in self._devices:
            self._devices[key] = _device(options, replica)
        return self._devices[key]


def _device(options: TierOptions, replica: Replica) -> TierDevice:
    defaults, accelerators = KINDS[options.kind], replica.engine.accelerators_per_rank
    bandwidth = options.bandwidth_gb_per_s or defaults.gb_per_s
    latency_us = defaults.latency_us if options.latency_us is None else options.latency_us
    return TierDevice(
        latency_ns=us_to_ns(latency_us),
        bytes_per_s=bandwidth * GB if bandwidth else _pcie_bytes_per_s(replica) * accelerators,
        copies=accelerators if options.repeat_reads else 1,
    )


def _pcie_bytes_per_s(replica: Replica) -> float:
    """Return the bandwidth of an accelerator's link to its host."""
    try:
        link = replica.device.pcie if replica.pool.hardware else None
    except InputError:  # a device that nothing else needs may be a mere name
        link = None
    return link.bandwidth_bytes_per_s if link is not None else UNKNOWN_PCIE_GB_PER_S * GB
