"""From placements and memory devices of a scenario to where each weight lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.units import GB
from servetwin.memory.devices import MemoryDevice
from servetwin.memory.placement import (
    HOME,
    ExpertCache,
    KvElsewhere,
    PlacedWeights,
    Placement,
    check_fits,
    check_operators,
)
from servetwin.memory.weights import OPERATORS
from servetwin.scenario.placement_options import PlacementOptions

if TYPE_CHECKING:
    from servetwin.scenario.hardware import Replica


def memory_devices(replica: Replica) -> dict[str, MemoryDevice]:
    """Return the memory devices beside a replica's accelerators, by name.

    Raises
    ------
    InputError
        If two have one name, or one has the accelerator's.
    """
    hardware = replica.pool.hardware
    found: dict[str, MemoryDevice] = {}
    for options in hardware.memory if hardware else ():
        where = f"{replica.where}.hardware.memory.{options.name}"
        if options.name in found or options.name == HOME:
            raise InputError(f"the name {options.name!r} is taken; names of memory devices are unique", where=where)
        rate = options.per_rank_gb_per_s
        found[options.name] = MemoryDevice(
            options.name,
            round(options.capacity_gb * GB),
            options.bandwidth_gb_per_s * GB,
            options.latency_ns,
            replica.engine.accelerators if options.shared else 1,
            None if rate is None else rate * GB,
            options.queue,
        )
    return found


def placed_stages(replica: Replica) -> tuple[PlacedWeights, ...]:
    """Return where the weights of each stage lie; empty where all stay on the accelerators.

    Raises
    ------
    InputError
        For a device, layer or operator that does not exist, or a device that is too small (with both figures).
    """
    options, where = replica.pool.placement, f"{replica.where}.placement"
    if options is None or options.kind == "auto":
        return ()
    devices = memory_devices(replica)
    placement = placement_of(options, replica.model.num_hidden_layers, devices, where)
    if placement.moves_nothing:
        return ()
    check_operators(placement, replica.model, where)
    ranks = replica.ranks
    stages = tuple(
        PlacedWeights(
            replica.model, replace(ranks, stage=stage), placement, devices, replica.dtype, replica.kv_cache_dtype
        )
        for stage in range(ranks.pipeline)
    )
    shared = {
        name: device for name, device in devices.items() if device.sharers > 1 or replica.engine.accelerators == 1
    }
    per_stage = replica.engine.accelerators // ranks.pipeline
    check_fits([replace(stage, devices=shared) for stage in stages], per_stage, where)
    own = {name: device for name, device in devices.items() if name not in shared}
    for stage in stages:
        check_fits([replace(stage, devices=own)], 1, where)
    return stages


def most_kv_blocks(replica: Replica) -> int | None:
    """Return the KV blocks of which a memory device can hold its share; None where no KV lies elsewhere."""
    stages = replica.placed_stages
    kv = stages[0].placement.kv if stages else None
    if kv is None:
        return None
    device, engine = stages[0].devices[kv.device], replica.engine
    ranks = engine.accelerators // replica.ranks.pipeline if device.sharers > 1 else 1
    taken = sum(stage.bytes_by_device.get(kv.device, 0) for stage in stages) * ranks
    per_block = sum(stage.kv_bytes_per_token * len(stage.layers) for stage in stages) * engine.block_size * kv.share
    return int((device.capacity_bytes - taken) / (per_block * ranks))


def placement_of(
    options: PlacementOptions, num_layers: int, devices: Mapping[str, MemoryDevice], where: str
) -> Placement:
    """Return a placement from its options."""
    layers: dict[int, str] = {}
    for name, which in options.layers.items():
        _check_device(name, devices, f"{where}.layers")
        for index in layers_named(which, num_layers, layers, f"{where}.layers.{name}"):
            if index in layers:
                raise InputError(f"layer {index} is on {layers[index]!r} already", where=f"{where}.layers.{name}")
            layers[index] = name
    for operator, name in options.operators.items():
        if operator not in OPERATORS:
            raise unknown_name("operator", operator, OPERATORS, where=f"{where}.operators.{operator}")
        if name != HOME:
            _check_device(name, devices, f"{where}.operators.{operator}")
    experts = None
    if options.experts is not None:
        _check_device(options.experts.device, devices, f"{where}.experts.device")
        if "experts" in options.operators:
            raise InputError("experts stand here and among operators; give one", where=f"{where}.experts")
        experts = ExpertCache(options.experts.device, options.experts.cached, options.experts.eviction)
    kv = None
    if options.kv is not None:
        _check_device(options.kv.device, devices, f"{where}.kv.device")
        kv = KvElsewhere(options.kv.device, options.kv.share)
    return Placement(
        dict(sorted(layers.items())),
        dict(options.operators),
        experts,
        kv,
        options.prefetch,
        options.access,
        options.at_start,
        options.frees_memory,
    )


def _check_device(name: str, devices: Mapping[str, MemoryDevice], where: str) -> None:
    if not devices:
        raise InputError(
            f"{name!r} is no memory device: hardware.memory names none; give it there with its capacity_gb and "
            "bandwidth_gb_per_s",
            where=where,
        )
    if name not in devices:
        raise unknown_name("memory device", name, devices, where=where)


def layers_named(which: int | str, num_layers: int, taken: Mapping[int, str], where: str) -> list[int]:
    """Return layers: a number of those not taken, evenly spread as the last of equal groups; or ``0-3,7``."""
    if isinstance(which, int):
        free = [index for index in range(num_layers) if index not in taken]
        if not 0 <= which <= len(free):
            raise InputError(f"given {which} layers: {len(free)} of {num_layers} are left", where=where)
        return [free[(number + 1) * len(free) // which - 1] for number in range(which)]
    found: list[int] = []
    for piece in which.split(","):
        first, dash, last = piece.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise InputError(f"given {which!r}: should be a number of layers, or ranges like 0-3,7", where=where)
        found += range(int(first), int(last or first) + 1)
    beyond = [index for index in found if index >= num_layers]
    if beyond:
        raise InputError(f"layer {beyond[0]} does not exist: the model has layers 0 to {num_layers - 1}", where=where)
    return sorted(set(found))
