"""The power keys of a cluster file: LLMServingSim's own model in mode lss, ours with its figures in default mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from servetwin.core.errors import InputError
from servetwin.energy.lss import CPU_SHARE
from servetwin.hardware.catalogue import load_device
from servetwin.hardware.pim_ini import PimIni
from servetwin.scenario.importers.reader import ObjectReader, load_json_object

_KEYS = ("base_node_power", "npu", "cpu", "dram", "link", "nic", "storage")


def imported_power(
    cluster: Path, pools: Sequence[Mapping[str, Any]], mode: str, memories: Mapping[int, PimIni] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return the scenario's key ``power`` (nothing where no node has one), and what a reader should know.

    Parameters
    ----------
    cluster
        The cluster file.
    pools
        The scenario's pools, in the order of the file's instances.
    memories
        Memory that computes, by the number of the node that has it: as in LLMServingSim, its channels are the node's
        modules of memory, and what one draws at rest counts for them.
    """
    top = ObjectReader(load_json_object(cluster), str(cluster), top=True)
    memories = memories or {}
    nodes = [_Node(ObjectReader(item, where), memories.get(i)) for i, (where, item) in enumerate(top.objects("nodes"))]
    if not any(node.power for node in nodes):
        return {}, []
    instances = list(_instances(pools))
    if len(instances) != sum(node.count for node in nodes):
        return {}, ["power keys are left out: instances of this kind have no power model here"]
    first = 0
    for node in nodes:
        node.instances = dict(instances[first : first + node.count])
        first += node.count
    if mode == "lss":
        return {"power": {"lss": {"nodes": [node.for_lss() for node in nodes]}}}, []
    return _ours(nodes, pools)


class _Node:
    """One node of the file: its power object, its memory, its instances (name and hardware)."""

    def __init__(self, reader: ObjectReader, memory: PimIni | None) -> None:
        self.memory = memory
        self.power: Mapping[str, Any] = reader.raw("power") or {}
        if memory is not None and isinstance(self.power.get("dram"), Mapping):
            modules = {"dimm_size": memory.channel_gb, "idle_power": memory.idle_w}
            self.power = {**self.power, "dram": {**self.power["dram"], **modules}}
        self.where = reader.path("power")
        self.memory_gb = ObjectReader(reader.required("cpu_mem"), reader.path("cpu_mem")).number("mem_size")
        self.count = len(reader.objects("instances"))
        self.instances: dict[str, str] = {}

    def for_lss(self) -> dict[str, Any]:
        return {"instances": self.instances, "memory_gb": self.memory_gb, **self.power}

    def part(self, key: str) -> ObjectReader:
        return ObjectReader(ObjectReader(self.power, self.where).required(key), f"{self.where}.{key}")


def _instances(pools: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield name and hardware of each instance."""
    for pool in pools:
        ranks = pool.get("engine", {}).get("data_parallel_size", 1)
        for number in range(pool.get("replicas", 1)):
            for rank in range(ranks):
                name = f"{pool['name']}-{number}" + (f"-dp{rank}" if ranks > 1 else "")
                yield name, pool["hardware"]["device"]


def _ours(nodes: Sequence[_Node], pools: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return our power model with the file's figures; active power becomes the limit, as it knows no other."""
    unlike = any(node.power != nodes[0].power or node.memory_gb != nodes[0].memory_gb for node in nodes)
    if unlike:
        return {}, ["power keys are left out in default mode: nodes that differ need --mode lss"]
    names = dict.fromkeys(hardware for node in nodes for hardware in node.instances.values())
    for name in names:
        try:
            load_device(name)
        except InputError as error:
            unknown = str(error).partition(". Allowed:")[0]
            return {}, [f"power keys are left out in default mode, which needs the device's data sheet: {unknown}"]
    devices = {name: _device(nodes[0], name) for name in names}
    sizes = {pool["name"]: pool["engine"].get("tensor_parallel_size", 1) for pool in pools}
    of_node = sum(sizes[name.rsplit("-", 1)[0]] for name in nodes[0].instances if name.rsplit("-", 1)[0] in sizes)
    node = _node_options(nodes[0]) | ({"accelerators": of_node} if len(pools) == 1 and of_node else {})
    said = "power: LLMServingSim's figures in our own model; its active power is the limit, standby_duration in seconds"
    return {"power": {"devices": devices, "node": node}}, [said]


def _device(node: _Node, name: str) -> dict[str, float]:
    figures = ObjectReader(node.part("npu").required(name), f"{node.where}.npu.{name}")
    return {
        "idle_w": figures.number("idle_power"),
        "standby_w": figures.number("standby_power"),
        "standby_s": figures.number("standby_duration"),
        "limit_w": figures.number("active_power"),
    }


def _node_options(node: _Node) -> dict[str, Any]:
    cpu, dram, link, nic, storage = (node.part(key) for key in _KEYS[2:])
    span = cpu.number("active_power") - cpu.number("idle_power")
    idle = cpu.number("idle_power") + span * cpu.number("util")
    return {
        "base_w": ObjectReader(node.power, node.where).number("base_node_power"),
        "host": {
            "idle_w": idle,
            "per_active_accelerator_w": round(span * max(CPU_SHARE - cpu.number("util"), 0.0), 9),
            "limit_w": max(cpu.number("active_power"), idle),
        },
        "dram": {
            # memory that computes counts by itself
            "count": 0 if node.memory else int(node.memory_gb // dram.number("dimm_size", positive=True)),
            "idle_w": dram.number("idle_power"),
            "pj_per_bit": dram.number("energy_per_bit"),
        },
        "links": {
            "count": link.integer("num_links"),
            "idle_w": link.number("idle_power"),
            "pj_per_bit": link.number("energy_per_bit"),
        },
        "nics": {"count": nic.integer("num_nics"), "idle_w": nic.number("idle_power")},
        "storage": {"count": storage.integer("num_devices"), "idle_w": storage.number("idle_power")},
    }
