"""How long an instance that begins cold loads its model."""

from __future__ import annotations

from servetwin.core.errors import InputError
from servetwin.core.units import GB, seconds_to_ns
from servetwin.scenario.hardware import Replica


def ready_ns(replica: Replica, number: int) -> int:
    """Return from when on the replica of that number serves: 0 for one that begins with its model.

    Loading takes the bytes of all its weights over what its storage delivers, or those of one accelerator over its own
    link, whichever is longer: accelerators load their parts at the same time, and reading and copying overlap.

    Raises
    ------
    InputError
        If there is no model, more replicas are cold than there are, or the accelerator has no known link.
    """
    options, where = replica.pool.cold_start, f"{replica.where}.cold_start"
    if options is None:
        return 0
    count = replica.pool.replicas
    if options.replicas is not None and options.replicas > count:
        raise InputError(f"given {options.replicas}: the pool has {count}", where=f"{where}.replicas")
    if number < count - (options.replicas or count):
        return 0
    if not replica.has_model:
        raise InputError("no model is named whose weights could be loaded", where=where)
    total = replica.weight_bytes * replica.engine.data_parallel_size
    per_rank = replica.weight_bytes / replica.engine.accelerators_per_rank
    loading_s = load_s(total, per_rank, options.storage_gb_per_s, _link(replica))
    return seconds_to_ns(loading_s + options.other_s)


def load_s(total_bytes: float, rank_bytes: float, storage_gb_per_s: float, link_gb_per_s: float) -> float:
    """Return the seconds of loading ``total_bytes`` from storage, ``rank_bytes`` of them to each accelerator."""
    return max(total_bytes / (storage_gb_per_s * GB), rank_bytes / (link_gb_per_s * GB))


def _link(replica: Replica) -> float:
    options, where = replica.pool.cold_start, f"{replica.where}.cold_start.link_gb_per_s"
    assert options is not None
    if options.link_gb_per_s is not None:
        return options.link_gb_per_s
    device = replica.device
    if device.pcie is None:
        raise InputError(f"{device.name} has no known link to its host; give this", where=where)
    return device.pcie.bandwidth_bytes_per_s / GB
