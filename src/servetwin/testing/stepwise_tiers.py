"""KV tiers in the stepwise engine: which chunk lies where is the tiers' own matter; when it gets there is told here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from servetwin.memory.tiers import ChunkStore, KvTiers, Recall, TierDevice, TierSpec, TiersSpec, Write
from servetwin.testing.stepwise_kv_cache import StepwiseRequest
from servetwin.workload.base import Contents


@dataclass(slots=True)
class StepwiseWrites:
    """What all tiers of a simulation have in common: stores, how long devices are busy, and writes under way."""

    stores: dict[TierSpec, ChunkStore] = field(default_factory=dict)
    reads_until_ns: dict[TierDevice, int] = field(default_factory=dict)
    writes_until_ns: dict[TierDevice, int] = field(default_factory=dict)
    under_way: list[tuple[int, StepwiseTiers, Write]] = field(default_factory=list)

    def arrive(self, now_ns: int) -> None:
        """Let writes arrive, the earliest first; what they push out of a tier begins to travel then."""
        while self.under_way:
            first = min(self.under_way, key=lambda write: write[0])
            arrival_ns, tiers, write = first
            if arrival_ns > now_ns:
                return
            self.under_way.remove(first)
            for further in tiers.hierarchy.finish_write(write, arrival_ns):
                tiers.write(further, arrival_ns)


class StepwiseTiers:
    """The tiers of one instance."""

    def __init__(self, spec: TiersSpec, contents: Contents, common: StepwiseWrites) -> None:
        self.spec = spec
        self.contents = contents
        self.common = common
        for tier in spec.tiers:
            if tier not in common.stores:
                common.stores[tier] = ChunkStore(
                    tier.name, tier.capacity_chunks, spec.chunk_tokens, tier.chunk_bytes, tier.eviction
                )
        stores = [common.stores[tier] for tier in spec.tiers]
        self.hierarchy = KvTiers(stores, write=spec.write, promote=spec.promote)

    def keys(self, request: StepwiseRequest, tokens: int) -> list[int]:
        """Return the keys of the whole chunks of a request's first ``tokens`` tokens."""
        keys = self.contents.block_keys(request.row, self.spec.chunk_tokens)
        return list(keys)[: tokens // self.spec.chunk_tokens]

    def found(self, request: StepwiseRequest, device_tokens: int, now_ns: int) -> int:
        """Return how many tokens behind those on the device the tiers have."""
        self.common.arrive(now_ns)
        first = device_tokens // self.spec.chunk_tokens
        count = self.hierarchy.peek(self.keys(request, request.known_tokens - 1), first)
        return (first + count) * self.spec.chunk_tokens - device_tokens if count else 0

    def recall(
        self, request: StepwiseRequest, device_tokens: int, now_ns: int, asked_ns: int
    ) -> tuple[Recall, int, list[tuple[int, int, int]]]:
        """Read what was found; return it, when all tiers have answered, and (tier, tokens, end) of each part."""
        chunk = self.spec.chunk_tokens
        keys = self.keys(request, request.known_tokens - 1)
        place = device_tokens // chunk
        recall = self.hierarchy.recall(keys, now_ns, place)
        by_tier = {part.tier: part for part in recall.parts}
        answered_ns = asked_ns
        for number, tier in enumerate(self.spec.tiers):
            if place == len(keys):
                break
            answered_ns += tier.lookup_ns
            place += by_tier[number].count if number in by_tier else 0
        parts = []
        at = device_tokens
        for part in recall.parts:
            tier = self.spec.tiers[part.tier]
            device = self.spec.devices[part.tier]
            end_ns = max(answered_ns, self.common.reads_until_ns.get(device, 0))
            for _ in range(device.copies):
                end_ns += device.duration_ns(part.count * tier.chunk_bytes)
            self.common.reads_until_ns[device] = end_ns
            behind = (part.first + part.count) * chunk
            parts.append((part.tier, behind - at, end_ns))
            at = behind
        return recall, answered_ns, parts

    def finish_recall(self, recall: Recall, now_ns: int) -> None:
        """Hold what was read in the faster tiers, too."""
        self.common.arrive(now_ns)
        for write in self.hierarchy.finish_recall(recall, now_ns):
            self.write(write, now_ns)

    def save(self, request: StepwiseRequest, computed: int, now_ns: int) -> None:
        """Save the chunks of a request that has ``computed`` tokens, if there are more than at the last time."""
        saved = computed if self.spec.saves == "all" else min(computed, request.prompt_tokens)
        keys = self.keys(request, saved)
        if len(keys) > request.saved_chunks:
            request.saved_chunks = len(keys)
            self.common.arrive(now_ns)
            for write in self.hierarchy.save(keys, len(keys)):
                self.write(write, now_ns)

    def swap_out(self, request: StepwiseRequest, now_ns: int) -> int:
        """Write what a preempted request has computed to the first tier; return when that is done."""
        self.common.arrive(now_ns)
        keys = self.keys(request, request.computed)
        ends = [self.write(write, now_ns) for write in self.hierarchy.save(keys, len(keys)) if write.tier == 0]
        return max(ends, default=now_ns)

    def write(self, write: Write, now_ns: int) -> int:
        """Let chunks travel to a tier; return when they arrive."""
        if self.spec.instant_writes:
            for further in self.hierarchy.finish_write(write, now_ns):
                self.write(further, now_ns)
            return now_ns
        device = self.spec.devices[write.tier]
        start_ns = max(now_ns, self.common.writes_until_ns.get(device, 0))
        self.common.writes_until_ns[device] = start_ns + device.duration_ns(write.num_bytes)
        self.common.under_way.append((self.common.writes_until_ns[device], self, write))
        return self.common.writes_until_ns[device]


def make_tiers(specs: Sequence[TiersSpec | None], contents: Contents) -> list[StepwiseTiers | None]:
    """Return the tiers of each instance."""
    common = StepwiseWrites()
    return [None if spec is None else StepwiseTiers(spec, contents, common) for spec in specs]
