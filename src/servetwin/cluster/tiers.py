"""The KV tiers of a cluster's instances: who shares what, and what is left of them at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from servetwin.cluster.base import InstanceSpec, TierRecord
from servetwin.core.errors import InputError
from servetwin.engine.tiers import InstanceTiers
from servetwin.memory.tiers import TierTraffic
from servetwin.workload.base import Contents


class ClusterTiers:
    """The tiers of all instances.

    Attributes
    ----------
    of
        Each instance's tiers, None where it has none.
    shared
        Whether any two instances share a tier or a device.
    """

    def __init__(self, specs: Sequence[InstanceSpec], contents: Contents) -> None:
        self._specs = specs
        users = Counter(part for spec in specs for part in _parts(spec))
        self.shared = any(count > 1 for count in users.values())
        together = TierTraffic()  # whoever looks lets all writes arrive that are due, also those of others
        self._traffic = [together if self.shared else TierTraffic() for _ in specs]
        self.of: list[InstanceTiers | None] = []
        for spec, traffic in zip(specs, self._traffic, strict=True):
            if spec.tiers is None:
                self.of.append(None)
                continue
            self.of.append(InstanceTiers(traffic.tiers_of(spec.tiers), contents, shared=self.shared))

    def records(self, end_ns: int) -> list[TierRecord]:
        """Return what the tiers held and answered, each once, in the order of the first instance that has it."""
        records: dict[object, TierRecord] = {}
        for number, (spec, traffic) in enumerate(zip(self._specs, self._traffic, strict=True)):
            traffic.settle(end_ns)
            for tier in spec.tiers.tiers if spec.tiers else ():
                if tier in records:
                    records[tier].instances.append(number)
                else:
                    records[tier] = TierRecord(tier, [number], traffic.stores[tier].log)
        return list(records.values())


def _parts(spec: InstanceSpec) -> set[object]:
    """Return the tiers and devices that an instance has."""
    return {*spec.tiers.tiers, *spec.tiers.devices} if spec.tiers else set()


def check_tiers(spec: InstanceSpec) -> None:
    """Raise if an instance cannot use its tiers.

    Raises
    ------
    InputError
        Naming the instance, and what does not go together.
    """
    if spec.tiers is None:
        return
    if not spec.settings.enable_prefix_caching:
        raise InputError("KV tiers need enable_prefix_caching: prompts are found in them by prefix", where=spec.name)
    spec.tiers.check(spec.settings.block_size, spec.name)
