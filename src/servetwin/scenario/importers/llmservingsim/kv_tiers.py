"""LLMServingSim's prefix storage, prefix sharing and ``kv_evict_loc`` as KV tiers (FORMATS, sections 1.5, 1.6, 7.7)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from servetwin.core.errors import InputError
from servetwin.core.units import GB, GIB
from servetwin.scenario.importers.llmservingsim.cluster import LssCluster
from servetwin.scenario.importers.llmservingsim.flags import LssFlags

LSS_CHUNK_TOKENS = 256


def imported_tiers(cluster: LssCluster, flags: LssFlags, mode: str) -> dict[str, Any]:
    """Return the key ``tiers`` of a scenario; empty without ``--prefix-storage``.

    In mode lss chunks of generated tokens are saved, too; writing takes no time; every accelerator reads the chunks of
    the whole instance, one after the other; and reads are charged to the device that ``kv_evict_loc`` names, the host
    unless it is given, even where the tier is CXL memory (defect 8: ``repeat_reads``, ``bandwidth_gb_per_s``,
    ``instant_writes``). In default mode the tier's own device is charged, and what LMCache saves is saved: prompts.

    Raises
    ------
    InputError
        If sharing is asked for without a storage, CXL memory is missing, or nodes that share differ.
    """
    storage = flags.prefix_storage or "None"
    if storage == "None":
        if flags.enable_prefix_sharing:
            raise InputError("it needs --prefix-storage CPU or CXL", where="--enable-prefix-sharing")
        return {}
    if storage == "CXL" and cluster.cxl is None:
        raise InputError(f"CXL needs cxl_mem in {cluster.path}", where="--prefix-storage")
    sharing = bool(flags.enable_prefix_sharing)
    level = _cpu(cluster, sharing) if storage == "CPU" else _cxl(cluster, sharing)
    tiers: dict[str, Any] = {"chunk_tokens": LSS_CHUNK_TOKENS, "levels": [level]}
    per_node = _instances_per_node(cluster)
    if per_node is not None:
        tiers["instances_per_node"] = per_node
    elif level["shared"] == "node":
        raise InputError("nodes that share KV must have equally many instances", where=f"{cluster.path}: nodes")
    if mode == "lss":
        level |= {**_charged(cluster, level), "repeat_reads": True}
        tiers |= {"saves": "all", "instant_writes": True}
    return {"tiers": tiers}


def _cpu(cluster: LssCluster, sharing: bool) -> dict[str, Any]:
    sizes = sorted({instance.host_memory_gib for instance in cluster.instances})
    if len(sizes) > 1:
        raise InputError(f"nodes have cpu_mem of {sizes} GB; prefix storage needs them alike", where=str(cluster.path))
    return {
        "kind": "host",
        "capacity_gb": sizes[0] * GIB / GB,
        "bandwidth_gb_per_s": cluster.host_bandwidth_gb_per_s,
        "latency_us": cluster.host_latency_ns / 1e3,
        "shared": "node" if sharing else "instance",
        "queue": "node",
    }


def _cxl(cluster: LssCluster, sharing: bool) -> dict[str, Any]:
    assert cluster.cxl is not None
    return {
        "kind": "cxl",
        "capacity_gb": cluster.cxl.size_gib * GIB / GB,
        "bandwidth_gb_per_s": cluster.cxl.bandwidth_gb_per_s,
        "latency_us": cluster.cxl.latency_ns / 1e3,
        "shared": "cluster" if sharing else "instance",
        "queue": "cluster",
    }


def _instances_per_node(cluster: LssCluster) -> int | None:
    """Return how many instances each node has; None where they differ."""
    counts = set(Counter(instance.node for instance in cluster.instances).values())
    return counts.pop() if len(counts) == 1 else None


def _charged(cluster: LssCluster, level: dict[str, Any]) -> dict[str, Any]:
    """Return bandwidth, latency and queue of the device that LSS charges for reads."""
    places = {instance.placement.kv_evict_loc for instance in cluster.instances}
    if len(places) > 1:
        message = f"instances name different devices for kv_evict_loc ({', '.join(sorted(places))}); name one"
        raise InputError(message, where=str(cluster.path))
    place, first = places.pop(), cluster.instances[0]
    if place == "npu":
        charged = {"bandwidth_gb_per_s": first.memory_bandwidth_gb_per_s, "latency_us": first.memory_latency_ns / 1e3}
        return charged | {"queue": "instance"}
    level = _cpu(cluster, sharing=False) if place == "cpu" else _cxl(cluster, sharing=False)
    return {key: level[key] for key in ("bandwidth_gb_per_s", "latency_us", "queue")}
