"""Power of devices and nodes, as a scenario gives them or the catalogue has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from servetwin.core.errors import InputError
from servetwin.energy.base import NodePower, Part
from servetwin.hardware.power import DevicePower, device_power
from servetwin.scenario.hardware import Replica
from servetwin.scenario.power_options import NodePowerOptions, PartPowerOptions, PowerOptions, RestPowerOptions

MOST_PER_NODE = 8


def power_of(options: PowerOptions, replica: Replica) -> DevicePower:
    """Return the power of a replica's accelerator, under the name by which the scenario calls it."""
    device = replica.device
    names = [name for name in options.devices if is_called(replica, name)]
    given: dict[str, float] = options.devices[names[0]].given if names else {}
    if options.race_to_idle:
        given = given | {"standby_s": 0.0}
    where = f"power.devices.{names[0] if names else device.name}"
    power = device_power(device, given, where=where)
    if options.sleep_w > power.idle_w:
        raise InputError(
            f"{options.sleep_w:g} W is more than {device.name} draws when idle ({power.idle_w:g} W)",
            where="power.sleep_w",
        )
    return power


def is_called(replica: Replica, name: str) -> bool:
    """Return whether a name stands for the device of a replica."""
    if replica.pool.hardware is None:
        return False
    device = replica.device
    known = {device.name, replica.device_name, *device.aliases}
    return name.casefold() in {other.casefold() for other in known}


def check_devices(given: Mapping[str, object], replicas: Sequence[Replica], where: str) -> None:
    """Check that all devices of which something is given are in the cluster."""
    for name in given:
        if not any(is_called(replica, name) for replica in replicas):
            used = ", ".join(sorted({replica.device_name for replica in replicas if replica.device_name})) or "none"
            raise InputError(f"no pool has a device {name!r}; devices of the cluster: {used}", where=f"{where}.{name}")


def node_power(options: NodePowerOptions) -> NodePower:
    """Return a node's power as the energy model takes it."""
    parts = {name: _part(getattr(options, name)) for name in ("dram", "cxl", "links", "switches", "nics", "storage")}
    host = options.host
    return NodePower(
        base_w=options.base_w,
        host_idle_w=host.idle_w,
        host_active_w=host.per_active_accelerator_w,
        host_limit_w=host.limit_w,
        psu_efficiency=options.psu_efficiency,
        **parts,
    )


def _part(options: PartPowerOptions | RestPowerOptions | None) -> Part:
    return Part() if options is None else Part(**options.model_dump())


def node_accelerators(options: PowerOptions, accelerators: int) -> int:
    """Return how many accelerators a node of a pool with so many holds."""
    per_node = options.node.accelerators if options.node and options.node.accelerators else None
    return per_node or min(MOST_PER_NODE, accelerators)
