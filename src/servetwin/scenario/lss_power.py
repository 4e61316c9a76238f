"""Reads the power keys of LLMServingSim's nodes, as its importer writes them, strictly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.number_formats import bytes_per_element
from servetwin.energy.base import LoadedBytes, MemoryEnergy, Part
from servetwin.energy.lss import LssAccelerator, LssEnergyModel, LssInstancePower, LssNode
from servetwin.scenario.hardware import Replica
from servetwin.scenario.importers.reader import ObjectReader
from servetwin.scenario.power_options import LssPowerOptions

_Beside: TypeAlias = tuple[Mapping[str, MemoryEnergy], Mapping[str, LoadedBytes]]

WHERE = "power.lss.nodes"


def lss_energy_model(
    options: LssPowerOptions,
    replicas: Sequence[Replica],
    memories: Mapping[str, MemoryEnergy],
    loads: Mapping[str, LoadedBytes],
) -> tuple[LssEnergyModel | None, list[str]]:
    """Return LLMServingSim's power model, and what a user should know; no model where a node has no power.

    Parameters
    ----------
    memories
        Memory that computes, by the name of the pool whose instances have it.
    loads
        What steps load from elsewhere, likewise.

    Raises
    ------
    InputError
        For a key that is missing or unknown, a power that is negative, or idle power above active power.
    """
    without = [i for i, node in enumerate(options.nodes) if set(node) <= {"instances", "memory_gb"}]
    if without:
        if options.missing_node == "error":
            raise InputError("has no power keys", where=f"{WHERE}[{without[0]}]")
        return None, [f"node {without[0]} has no power keys, so that energy is off for all, as in LLMServingSim"]
    by_name = {name: replica for replica in replicas for name in _names(replica)}
    unit_s = 1.0 if options.standby_unit == "s" else 1e-9
    nodes = [
        _node(i, ObjectReader(node, f"{WHERE}[{i}]"), by_name, unit_s, (memories, loads))
        for i, node in enumerate(options.nodes)
    ]
    return LssEnergyModel(nodes, options.standby_remaining, active_time=options.active_time), []


def _names(replica: Replica) -> list[str]:
    """Return the names of a pool's instances."""
    ranks = replica.engine.data_parallel_size
    ends = [f"-dp{rank}" for rank in range(ranks)] if ranks > 1 else [""]
    return [f"{replica.pool.name}-{number}{end}" for number in range(replica.pool.replicas) for end in ends]


def _node(
    i: int,
    node: ObjectReader,
    by_name: Mapping[str, Replica],
    unit_s: float,
    beside: _Beside,
) -> LssNode:
    accelerators = {
        name: _accelerator(ObjectReader(value, f"{node.path('npu')}.{name}"), unit_s)
        for name, value in _mapping(node, "npu").items()
    }
    instances = {
        name: _instance(name, hardware, by_name, accelerators, node, beside)
        for name, hardware in _mapping(node, "instances").items()
    }
    cpu, dram, link = (ObjectReader(node.required(key), node.path(key)) for key in ("cpu", "dram", "link"))
    nic, storage = (ObjectReader(node.required(key), node.path(key)) for key in ("nic", "storage"))
    idle_w, active_w = cpu.number("idle_power"), cpu.number("active_power")
    _ascending(cpu.where, idle_power=idle_w, active_power=active_w)
    modules = int(node.number("memory_gb") // dram.number("dimm_size", positive=True))
    read = LssNode(
        name=f"node{i}",
        base_w=node.number("base_node_power"),
        accelerators=accelerators,
        instances=instances,
        cpu_idle_w=idle_w,
        cpu_active_w=active_w,
        cpu_util=cpu.number("util"),
        dimms=Part(modules, dram.number("idle_power"), dram.number("energy_per_bit")),
        links=Part(link.integer("num_links"), link.number("idle_power"), link.number("energy_per_bit")),
        nics=Part(nic.integer("num_nics"), nic.number("idle_power")),
        storage=Part(storage.integer("num_devices"), storage.number("idle_power")),
    )
    for reader in (cpu, dram, link, nic, storage, node):
        reader.finish()
    return read


def _accelerator(reader: ObjectReader, unit_s: float) -> LssAccelerator:
    idle, standby, active = (reader.number(f"{state}_power") for state in ("idle", "standby", "active"))
    _ascending(reader.where, idle_power=idle, standby_power=standby, active_power=active)
    result = LssAccelerator(idle, standby, active, reader.number("standby_duration") * unit_s)
    reader.finish()
    return result


def _ascending(where: str, **powers: float) -> None:
    names = list(powers)
    for low, high in pairwise(names):
        if powers[low] > powers[high]:
            raise InputError(f"{low} ({powers[low]:g}) is above {high} ({powers[high]:g})", where=where)


def _instance(
    name: str,
    hardware: Any,
    by_name: Mapping[str, Replica],
    accelerators: Mapping[str, LssAccelerator],
    node: ObjectReader,
    beside: _Beside,
) -> LssInstancePower:
    if name not in by_name:
        raise unknown_name("instance", name, by_name, where=node.path("instances"))
    if hardware not in accelerators:
        raise unknown_name("accelerator", hardware, accelerators, where=node.path("npu"))
    replica = by_name[name]
    ranks = replica.engine.tensor_parallel_size
    per_token = 0.0
    if ranks > 1 and replica.has_model:
        model = replica.model
        size = bytes_per_element(replica.dtype or model.dtype)
        per_token = 2 * model.num_hidden_layers * 2 * (ranks - 1) / ranks * model.hidden_size * size
    memory, loads = (beside[0].get(replica.pool.name), beside[1].get(replica.pool.name))
    return LssInstancePower(replica.engine.accelerators_per_rank, hardware, ranks, per_token, memory, loads)


def _mapping(node: ObjectReader, key: str) -> Mapping[str, Any]:
    value = node.required(key)
    if not isinstance(value, Mapping) or not value:
        raise InputError(f"a mapping with at least one key is needed, found {value!r}", where=node.path(key))
    return value
