"""Wiring of links that KV shares with steps: what a pool's collectives and loads take of the ports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from servetwin.core.errors import InputError
from servetwin.core.units import GB
from servetwin.network.measured import MeasuredCollectives
from servetwin.scenario.collectives import collectives_of
from servetwin.scenario.disaggregation_options import KvPortOptions
from servetwin.scenario.hardware import Replica
from servetwin.scenario.plans import build_plan
from servetwin.scenario.step_models import build_step_model
from servetwin.step.base import StepShape
from servetwin.step.link_share import LinkTime

if TYPE_CHECKING:
    from servetwin.cluster.base import InstanceSpec
    from servetwin.step.link_share import Timing

_SOME_STEP = StepShape(8, 8000, ((512, 0),), 1000, 1000)


def link_times(
    port: KvPortOptions, replicas: Sequence[Replica], instances: Sequence[InstanceSpec], where: str
) -> list[LinkTime | None]:
    """Return what each instance's steps take of its port; empty where nothing is shared.

    Parameters
    ----------
    instances
        At their highest clock.

    Raises
    ------
    InputError
        For a pool whose collectives, or loads, do not follow from a link's bandwidth, or that has pipeline stages.
    """
    if not port.shared_with:
        return []
    pools = {replica.pool.name: _PoolLinks(port, replica, f"{where}.shared_with") for replica in replicas}
    by_timing: dict[int, LinkTime | None] = {}
    for spec in instances:
        if id(spec.timing) not in by_timing:
            by_timing[id(spec.timing)] = pools[spec.pool].time_of(spec.timing)
    if not any(by_timing.values()):
        raise InputError(
            f"no pool has steps that use these links ({', '.join(port.shared_with)}): collectives need several "
            "accelerators per replica, weights a placement; leave this out",
            where=f"{where}.shared_with",
        )
    return [by_timing[id(spec.timing)] for spec in instances]


def sharing_notices(shared: Sequence[LinkTime | None], instances: Sequence[InstanceSpec]) -> list[str]:
    """Return what a user should know of the use of links that steps share."""
    if not shared:
        return []
    pools = dict.fromkeys(spec.pool for spec, own in zip(instances, shared, strict=True) if own is not None)
    return [f"ports of {', '.join(pools)}: their use, where shown, counts KV and embeddings, not what steps send"]


def accelerator_port_bytes_per_s(port: KvPortOptions, replica: Replica) -> float:
    """Return the bandwidth of one accelerator's port: that of the link of a replica's collectives, where it is that.

    Raises
    ------
    InputError
        If another bandwidth is given than that link has.
    """
    link = outer_bytes_per_s(replica) if "collectives" in port.shared_with else None
    given = port.bandwidth_gb_per_s
    if link is not None and given is not None and abs(given * GB / link - 1.0) > 0.01:
        raise InputError(
            f"the port carries {given:g} GB/s, the link of {replica.where} that it shares with collectives "
            f"{link / GB:g} GB/s: they are one link; leave the bandwidth out, or give both the same",
            where="disaggregation.port.bandwidth_gb_per_s",
        )
    return port.bytes_per_s if link is None else link


def outer_bytes_per_s(replica: Replica) -> float | None:
    """Return the bandwidth of an accelerator's link at the outermost level that joins a replica's accelerators."""
    if replica.link is None:
        return None
    if replica.topology is not None:
        return replica.topology.levels[-1].bandwidth_bytes_per_s
    return replica.link.bandwidth_bytes_per_s


class _PoolLinks:
    """One pool, and the same with half the bandwidth of links that KV shares."""

    def __init__(self, port: KvPortOptions, replica: Replica, where: str) -> None:
        self._replica = replica
        self._where = where
        self._collectives = "collectives" in port.shared_with and replica.link is not None
        self._loads = "weights" in port.shared_with and bool(replica.placed_stages)
        if self._collectives:
            _check_follows_bandwidth(replica)
        self._port_bytes_per_s = accelerator_port_bytes_per_s(port, replica)
        if self._loads:
            _check_memory(replica, self._port_bytes_per_s, where)

    def time_of(self, timing: Timing) -> LinkTime | None:
        """Return what steps timed so take of the port; None for nothing."""
        if not self._collectives and not self._loads:
            return None
        found = self._link_time(timing)
        if found.of([_SOME_STEP] * getattr(timing, "num_ranks", 1)).transfer_ns:
            return found
        topology = self._replica.topology
        one_level = topology is None or len(topology.levels) == 1
        exchanges = hasattr(timing, "stage_times_ns") and self._replica.part == "all"
        if one_level and (self._replica.ranks.tensor > 1 or exchanges):
            raise InputError(
                f"steps of {self._replica.where} take as long at half the bandwidth of the link: its step model, "
                f"{self._replica.pool.step.model!r}, knows nothing of the links; leave this out",
                where=self._where,
            )
        return None

    @property
    def _memory_bytes_per_s(self) -> dict[str, float]:
        """What one accelerator gets of each memory device from which steps load."""
        if not self._loads:
            return {}
        return {name: device.rate_bytes_per_s for name, device in self._replica.placed_stages[0].devices.items()}

    def _link_time(self, timing: Timing) -> LinkTime:
        try:
            return LinkTime(
                timing,
                _timing(replace(self._replica, link_share=0.5)) if self._collectives else None,
                _timing(_with_slow_memory(self._replica)) if self._loads else None,
                link_bytes_per_s=self._port_bytes_per_s,
                memory_bytes_per_s=self._memory_bytes_per_s,
            )
        except InputError as error:
            if error.where is not None:
                raise
            raise InputError(f"{self._replica.where}: {error}; leave this out", where=self._where) from None


def _timing(replica: Replica) -> Timing:
    return build_plan(replica) or build_step_model(replica)


def _with_slow_memory(replica: Replica) -> Replica:
    """Return the replica with half the bandwidth of its memory devices."""
    memory = []
    for device in replica.hardware.memory:
        rate = device.per_rank_gb_per_s
        changes = {"bandwidth_gb_per_s": device.bandwidth_gb_per_s / 2, "per_rank_gb_per_s": rate and rate / 2}
        memory.append(device.model_copy(update=changes))
    hardware = replica.hardware.model_copy(update={"memory": tuple(memory)})
    return replace(replica, pool=replica.pool.model_copy(update={"hardware": hardware}))


def _check_memory(replica: Replica, port_bytes_per_s: float, where: str) -> None:
    """Check that no memory sends its loads faster than the port that they cross can carry them."""
    placed = replica.placed_stages[0]
    kv = placed.placement.kv
    for name in dict.fromkeys([*placed.bytes_by_device, *([kv.device] if kv is not None else [])]):
        rate = placed.devices[name].rate_bytes_per_s
        if rate > 1.01 * port_bytes_per_s:
            raise InputError(
                f"loads of {replica.where} come from {name!r} at {rate / GB:g} GB/s for each accelerator, and the port "
                f"that they share with KV carries {port_bytes_per_s / GB:g} GB/s: give the memory at most that "
                "(per_rank_gb_per_s), the port more, or leave weights out",
                where=where,
            )


def _check_follows_bandwidth(replica: Replica) -> None:
    """Check that a pool's collectives follow from the bandwidth of a link."""
    kind, where = replica.pool.step.collective.kind, f"{replica.where}.step.collective.kind"
    if isinstance(kind, str) and not isinstance(collectives_of(replica), MeasuredCollectives):
        return
    name = kind if isinstance(kind, str) else type(kind).__name__
    raise InputError(
        f"collectives that share the port of KV must follow from a link's bandwidth; {name!r} has times of its own: "
        "choose auto, nccl, ring or an algorithm, or leave disaggregation.port.shared_with out",
        where=where,
    )
