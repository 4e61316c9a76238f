"""KV tiers below the device, as an instance uses them: what a waiting request finds there, and what steps save.

A request that is let in recalls the whole chunks with which it begins, as far as the device has not got their blocks.
With ``load: blocking`` the step that lets it in begins to compute when all its recalls have come (`Instance.ready_ns`);
else see `servetwin.engine.recalls`. When a step ends, what was recalled is held by the faster tiers, too, and chunks
that it has completed are saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from servetwin.engine.recalls import Loading
from servetwin.engine.request import NO_KEYS, Request
from servetwin.memory.tiers import Recall, TimedTiers
from servetwin.workload.base import Contents
from servetwin.workload.coarse import keys_of

if TYPE_CHECKING:
    from servetwin.engine.instance import Instance

Completed = tuple[Request, int]
"""A request whose chunk of a prefill ends, and the tokens whose KV it has then."""


class InstanceTiers:
    """The tiers of one instance.

    Parameters
    ----------
    contents
        Of the workload, for the keys of chunks.
    shared
        Whether others may look at the tiers while a run goes on.
    """

    def __init__(self, tiers: TimedTiers, contents: Contents, *, shared: bool) -> None:
        self.tiers = tiers
        self.chunk_tokens = tiers.spec.chunk_tokens
        self.saves_all = tiers.spec.saves == "all"
        self.loads_apart = tiers.spec.load == "async"
        self.cuts_runs = self.saves_all and (shared or self.loads_apart)
        """Whether a run must end with the step that completes a chunk: others look, or recalls land, before it ends."""
        self.recalls: list[Recall] = []
        """Of the present step, which waits for them."""
        self.loading: dict[int, Loading] = {}
        """By row: recalls that no step waits for, until their request is let in."""
        self.started: list[tuple[int, int]] = []
        """Of these, when the new ones will have come, and the row: what the cluster has not taken on yet."""
        self.swaps = tiers.spec.preempted == "swap"
        self._contents = contents
        self._asked_ns = 0

    def begin_step(self, now_ns: int) -> None:
        """Begin to schedule a step."""
        self._asked_ns = now_ns
        self.recalls = []

    def found(self, request: Request, device_tokens: int, now_ns: int) -> int:
        """Return how many tokens behind the first ``device_tokens`` a waiting request would find."""
        first = device_tokens // self.chunk_tokens
        keys = self._wanted_keys(request)
        count = self.tiers.peek(keys, first, now_ns) if first < len(keys) else 0
        return (first + count) * self.chunk_tokens - device_tokens if count else 0

    def _wanted_keys(self, request: Request) -> Sequence[int]:
        """Return the keys of the chunks that a waiting request may recall; its last known token is computed."""
        self._know_keys(request)
        limit = (request.known_tokens - 1) // self.chunk_tokens
        return request.chunk_keys[:limit] if limit < len(request.chunk_keys) else request.chunk_keys

    def _know_keys(self, request: Request) -> None:
        if request.chunk_keys is NO_KEYS:
            request.chunk_keys = list(keys_of(self._contents, request.row, self.chunk_tokens))

    def landed(self, request: Request) -> None:
        """Take note of a request whose prompt another instance has computed: that one saves it."""
        self._know_keys(request)
        request.saved_chunks = (request.known_tokens - 1) // self.chunk_tokens

    def recall(self, instance: Instance, request: Request, device_tokens: int, now_ns: int) -> None:
        """Read for a request that was let in what `found` has found; the step waits for it."""
        recall, end_ns = self.read(instance, request, device_tokens, now_ns)
        if recall.parts:
            instance.ready_ns = max(instance.ready_ns, end_ns)
            self.recalls.append(recall)

    def read(self, instance: Instance, request: Request, device_tokens: int, now_ns: int) -> tuple[Recall, int]:
        """Read what `found` has found, and write it down; return it, and when it has come. Lookups hold the step up."""
        request.saved_chunks = 0
        first, keys = device_tokens // self.chunk_tokens, self._wanted_keys(request)
        recall, self._asked_ns, ends_ns = self.tiers.recall(keys, first, now_ns, self._asked_ns)
        instance.ready_ns = max(instance.ready_ns, self._asked_ns)
        log = instance.log
        for part, end_ns in zip(recall.parts, ends_ns, strict=True):
            behind = (part.first + part.count) * self.chunk_tokens
            log.recall_request.append(request.row)
            log.recall_tier.append(part.tier)
            log.recall_tokens.append(behind - device_tokens)
            log.recall_ns.append(now_ns)
            log.recalled_ns.append(end_ns)
            device_tokens = behind
        return recall, max(ends_ns, default=now_ns)

    def swap_out(self, instance: Instance, request: Request) -> None:
        """Write what a preempted request has computed to the first tier; the step waits for it."""
        self._know_keys(request)
        chunks = request.computed_tokens // self.chunk_tokens
        if chunks:
            end_ns = self.tiers.swap_out(request.chunk_keys, chunks, instance.start_ns)
            instance.ready_ns = max(instance.ready_ns, end_ns)

    # The end of a step ----------------------------------------------------------------------------------------

    def end_steps(
        self, instance: Instance, ends_ns: Sequence[int], recalls: Sequence[Recall], completed: Sequence[Completed]
    ) -> None:
        """End the steps of a run, or one with prefills; before the cohort advances.

        Parameters
        ----------
        recalls, completed
            Of the step, where it is one.
        """
        for recall in recalls:
            self.tiers.finish_recall(recall, ends_ns[0])
        if not self.saves_all:
            for request, tokens in completed:
                self._save(request, min(tokens, request.prompt_tokens), ends_ns[0])
            return
        for ahead, end_ns in enumerate(ends_ns):
            due = [(request.admission, request, tokens) for request, tokens in completed]
            if instance.decoding:
                due += _completing(instance, self.chunk_tokens, ahead)
            due.sort(key=itemgetter(0))
            for _, request, tokens in due:
                self._save(request, tokens, end_ns)

    def _save(self, request: Request, tokens: int, now_ns: int) -> None:
        """Save the chunks of a request's first ``tokens`` tokens, if some may not be saved."""
        chunks = tokens // self.chunk_tokens
        if chunks > request.saved_chunks:
            request.saved_chunks = chunks
            self.tiers.save(request.chunk_keys, chunks, now_ns)

    def steps_to_save(self, instance: Instance, steps: int) -> int:
        """Return after how many of so many steps a decoding request has completed a chunk."""
        for ahead in range(steps - 1):
            if _completing(instance, self.chunk_tokens, ahead):
                return ahead + 1
        return steps


def _completing(instance: Instance, chunk_tokens: int, ahead: int) -> list[tuple[int, Request, int]]:
    """Return the members of the cohort that complete a chunk in the round after ``ahead`` others, and their tokens."""
    cohort = instance.cohort
    after = cohort.round + ahead + 1
    return [
        (request.admission, request, request.base + after)
        for request in cohort.filling(ahead)
        if (request.base + after) % chunk_tokens == 0
    ]
