"""From a pool's hardware to what collectives among a replica's accelerators take."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import servetwin.network.collectives
import servetwin.network.factories  # noqa: F401  (these imports register what is built in)
from servetwin.core.errors import InputError
from servetwin.core.units import GB
from servetwin.network.base import Collectives, collectives
from servetwin.network.presets import scale_up
from servetwin.network.topology import Topology
from servetwin.scenario.factories import make
from servetwin.scenario.hardware import Replica

COLLECTIVE_CONTEXT = {"link", "topology", "folder"}
"""What a collective's factory may ask for."""


def collectives_of(replica: Replica) -> Collectives | None:
    """Return the cost of collectives among the accelerators; None for a single one.

    Without a name: `auto` on a topology or on scale-up links whose protocols are known, else `ring`.

    Raises
    ------
    InputError
        For an unknown name or option, a device without a known link, or a topology for collectives that take none.
    """
    options, where = replica.pool.step.collective, f"{replica.where}.step.collective"
    link = replica.link
    if link is None:
        return None
    if not isinstance(options.kind, str):
        given: Collectives = options.kind
        return given
    topology = _joined(replica).topology
    kind = options.kind if options.kind != "default" else "ring" if topology is None else "auto"
    factory = collectives.get(kind, where=f"{where}.kind")
    if replica.topology is not None and "topology" not in inspect.signature(factory).parameters:
        raise InputError(f"{kind!r} knows links only, no topology; leave out one of the two", where=f"{where}.kind")
    context = {"link": lambda: link, "topology": lambda: topology, "folder": lambda: replica.folder}
    try:
        return make(factory, options.extra, context, where, type(options).model_fields)
    except InputError as error:
        if topology is None or error.where != topology.name:
            raise
        raise InputError(str(error), where=f"{where}.kind") from None


def collective_notices(replica: Replica) -> list[str]:
    """Return what was assumed about the links, where collectives make use of it."""
    kind = replica.pool.step.collective.kind
    if replica.link is None or not isinstance(kind, str):
        return []
    if kind != "default" and "topology" not in inspect.signature(collectives.get(kind)).parameters:
        return []
    return _joined(replica).notices


@dataclass(frozen=True)
class _Joined:
    """How the accelerators are joined as far as it is known, and what was assumed about it."""

    topology: Topology | None
    notices: list[str]


def _joined(replica: Replica) -> _Joined:
    """Return the topology as given, else one level of the device's own links where their protocols are known.

    A latency of the user's own stands for all that is known of the link: no protocols then.
    """
    given = replica.hardware.link
    if replica.topology is not None or given.latency_ns is not None or replica.device.scale_up is None:
        return _Joined(replica.topology, [])
    own, device, accelerators = replica.device.scale_up, replica.device.name, replica.engine.accelerators
    most = own.bandwidth_bytes_per_s
    asked = most if given.bandwidth_gb_per_s is None else given.bandwidth_gb_per_s * GB
    found = scale_up(own.link_class, min(asked, most) * replica.link_share, accelerators)
    if found is None:
        return _Joined(None, [])
    notices = []
    if asked > most:
        notices.append(
            f"{device}: a link of {asked / GB:g} GB/s is faster than its {own.link_class}, {most / GB:g} GB/s per "
            "direction; the latter is taken"
        )
    if accelerators > found.node.size:
        notices.append(
            f"{accelerators} {device} are taken to be joined by one switch of {own.link_class}; {found.node.name} has "
            f"{found.node.size}. What joins several machines is said by hardware.topology"
        )
    return _Joined(found.topology, notices)
