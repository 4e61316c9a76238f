"""Requests on their way from the instance that computed their prompt to the one that computes their output."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from servetwin.cluster.base import Disaggregation, LinkRecord, Transfers
from servetwin.cluster.steps_on_links import StepsOnLinks
from servetwin.engine.admission import rejection_reason
from servetwin.engine.base import RequestLog
from servetwin.engine.handover import land, release_held
from servetwin.engine.instance import Instance
from servetwin.engine.request import WANTED, Request
from servetwin.workload.base import Contents, Workload
from servetwin.workload.coarse import keys_of

ARRIVAL, HANDOVER, LANDING, EMBEDDING, RECALL, ENCODER, STEP, CONTROL = range(8)
"""Kinds of events, in the order in which they are served at one time."""


class Handovers:
    """The way of requests between instances.

    Parameters
    ----------
    choose
        Returns the number of the instance that decodes a row at a time, None if none serves its model.
    reject
        Ends a row with a reason.
    came
        Tells an instance, by number, that a request joined its queue.
    notify
        Tells an instance, by number, that it may have something to do.
    """

    def __init__(
        self,
        disaggregation: Disaggregation,
        workload: Workload,
        contents: Contents,
        requests: RequestLog,
        instances: Sequence[Instance],
        events: list[tuple[int, int, int]],
        *,
        choose: Callable[[int, int], int | None],
        reject: Callable[[int, str, int], None],
        came: Callable[[int, int], None],
        notify: Callable[[int, int], None],
    ) -> None:
        self._how = disaggregation
        self._workload = workload
        self._contents = contents
        self._requests = requests
        self._instances = instances
        self._events = events
        self._choose, self._reject, self._came, self._notify = choose, reject, came, notify
        self.land_other: Callable[[int, int], None] | None = None
        """Takes the number of a transfer that has landed and is not of KV, where others use the network, too."""
        self._rows: dict[int, int] = {}
        self.steps: StepsOnLinks | None = None
        """Steps that share links with KV, where they do."""
        self.due_ns: int | None = None
        """When KV may land next; other landing events are out of date."""

    def take(self, instance: Instance, now_ns: int) -> None:
        """Take on the requests whose prompt an instance has just computed."""
        for request in instance.handed_over:
            self._requests.prefill_instance[request.row] = instance.number
            heapq.heappush(self._events, (now_ns + self._how.handoff_ns, HANDOVER, request.row))
        instance.handed_over.clear()

    def come(self, row: int, now_ns: int) -> None:
        """Let a request join the queue of an instance that decodes."""
        requests, w = self._requests, self._workload
        prompt_tokens, output_tokens = int(w.prompt_tokens[row]), int(w.output_tokens[row])
        number = self._choose(row, now_ns)
        reason = "no pool decodes its model"
        if number is not None:
            instance = self._instances[number]
            requests.instance[row] = number
            if prompt_tokens + output_tokens <= instance.longest_request:
                self._queue(instance, row, prompt_tokens, output_tokens, now_ns)
                self._came(number, now_ns)
                return
            reason = rejection_reason(instance.settings, prompt_tokens, output_tokens)
        self._reject(row, reason, now_ns)
        self._let_go(row, now_ns)

    def _queue(self, instance: Instance, row: int, prompt_tokens: int, output_tokens: int, now_ns: int) -> None:
        w = self._workload
        priority = int(w.priority[row]) if w.priority is not None else 0
        key = instance.order_key(row, now_ns, priority, prompt_tokens)
        request = Request(row, key, prompt_tokens, output_tokens, now_ns)
        request.remote = WANTED
        request.known_tokens = prompt_tokens + (self._how.first_token == "prefill")
        if instance.settings.enable_prefix_caching:
            request.keys = keys_of(self._contents, row, instance.settings.block_size)
        instance.waiting.push(request)

    def begin(self, instance: Instance, now_ns: int) -> None:
        """Move the KV of requests for which an instance has just taken blocks."""
        requests, transfers = self._requests, self._how.transfers
        for request, tokens in instance.reserved:
            row = request.row
            requests.transfer_ns[row] = now_ns
            if transfers is None:
                requests.landed_ns[row] = now_ns
                self._let_go(row, now_ns)
            else:
                self._rows[self._start(transfers, now_ns, row, instance.number, tokens)] = row
        instance.reserved.clear()
        self.expect()

    def _start(self, transfers: Transfers, now_ns: int, row: int, target: int, tokens: int) -> int:
        source = self._requests.prefill_instance[row]
        if not getattr(transfers, "overlaps", False):
            return transfers.start(now_ns, source, target, tokens)
        overlapping = cast(OverlappingTransfers, transfers)
        return overlapping.start(now_ns, source, target, tokens, produced_ns=produced_ns(self._requests, row))

    def land(self, now_ns: int) -> None:
        """Let requests be admitted whose KV has come."""
        if self._how.transfers is None:
            return
        for transfer in self._how.transfers.advance(now_ns):
            if self.land_other is not None and transfer not in self._rows:
                self.land_other(transfer, now_ns)
                continue
            row = self._rows.pop(transfer)
            self._requests.landed_ns[row] = now_ns
            self._let_go(row, now_ns)
            number = self._requests.instance[row]
            land(self._instances[number], row)
            self._notify(number, now_ns)
        if self.steps:
            self.steps.end(now_ns)
        self.expect()

    def _let_go(self, row: int, now_ns: int) -> None:
        """Give the blocks back in which the prompt was computed."""
        number = self._requests.prefill_instance[row]
        release_held(self._instances[number], row)
        self._notify(number, now_ns)

    def expect(self) -> None:
        """Have an event when the network's next is due, with the steps that KV has just met on its links."""
        if self.steps:
            self.steps.meet()
        due_ns = self._how.transfers.next_event_ns() if self._how.transfers else None
        if due_ns is not None and due_ns != self.due_ns:
            heapq.heappush(self._events, (due_ns, LANDING, 0))
        self.due_ns = due_ns


class OverlappingTransfers(Protocol):
    """`Transfers` that move KV while the prompt is computed."""

    def start(self, now_ns: int, source: int, target: int, tokens: int, *, produced_ns: int) -> int:
        """See `Transfers`."""
        ...


def produced_ns(requests: RequestLog, row: int) -> int:
    """Return how long a prompt was computed in one piece: 0 if it was preempted on the way, and began anew."""
    if requests.preemptions[row]:
        return 0
    return requests.handed_over_ns[row] - requests.first_scheduled_ns[row]


def link_records(disaggregation: Disaggregation | None) -> Sequence[LinkRecord]:
    """Return what the links carried, if whoever carries KV tells."""
    transfers = disaggregation.transfers if disaggregation else None
    if transfers is None or not hasattr(transfers, "link_records"):
        return ()
    records: Sequence[LinkRecord] = transfers.link_records()
    return records
