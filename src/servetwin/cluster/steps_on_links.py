"""Steps under way while KV crosses the links of their collectives: both slow each other down."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from servetwin.cluster.kv_transfers import KvTransfers
from servetwin.cluster.units import Unit, members
from servetwin.engine.instance import FAR_NS


class StepsOnLinks:
    """Which units' steps take part in the network now.

    A step takes part from when KV crosses the links of its instance, or from its beginning if it does so then, until
    the step's end. The network then says when that is; till then the unit expects no event.

    Parameters
    ----------
    kind
        Of the events that end steps.
    expect
        Called when the network's next event may be another one.
    """

    def __init__(
        self,
        transfers: KvTransfers,
        units: Sequence[Unit],
        events: list[tuple[int, int, int]],
        kind: int,
        expect: Callable[[], None],
    ) -> None:
        self._transfers, self._units, self._events, self._kind = transfers, units, events, kind
        self._expect = expect
        self._unit_of = {
            instance.number: number
            for number, unit in enumerate(units)
            for instance in members(unit)
            if transfers.shares_steps_of(instance.number)
        }
        self._sharing = set(self._unit_of.values())
        """Units whose steps use their ports: of others (those with several batches in flight) nobody asks a step."""
        self._unit_of_step: dict[int, int] = {}
        self._taking_part: set[int] = set()

    def look(self, number: int, now_ns: int) -> None:
        """Let the step that a unit has just begun take part if KV crosses its links."""
        if len(self._transfers.network) and self._join(number, now_ns):
            self._expect()

    def meet(self) -> None:
        """Let the steps take part that are under way on instances to whose links KV has just come."""
        for instance in self._transfers.reached():
            self._join(self._unit_of[instance], self._transfers.network.now_ns)

    def end(self, now_ns: int) -> None:
        """Let steps end that are over."""
        for step in self._transfers.network.steps_ended():
            number = self._unit_of_step.pop(step)
            self._taking_part.remove(number)
            self._units[number].end_step_at(now_ns)
            heapq.heappush(self._events, (now_ns, self._kind, number))

    def _join(self, number: int, now_ns: int) -> bool:
        unit = self._units[number]
        if number not in self._sharing or number in self._taking_part or not unit.computing:
            return False
        start_ns, end_ns, shapes = unit.step_under_way
        if end_ns <= now_ns:
            return False
        numbers = [instance.number for instance in members(unit)]
        step = self._transfers.begin_step(now_ns, numbers, shapes, end_ns - start_ns, end_ns - now_ns)
        if step is None:
            return False
        unit.next_event_ns = FAR_NS
        self._unit_of_step[step] = number
        self._taking_part.add(number)
        return True
