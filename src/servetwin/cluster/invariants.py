"""Checks of an instance's state that hold after every event."""

from __future__ import annotations

from servetwin.core.errors import InvariantError
from servetwin.engine.instance import Instance
from servetwin.engine.rank import Rank
from servetwin.engine.request import RECALLED


def check_instance(instance: Instance, name: str) -> None:
    """Raise if an instance contradicts itself.

    Raises
    ------
    InvariantError
        Naming the instance and the figures that disagree.
    """
    settings, cache = instance.settings, instance.cache
    cohorts = instance.cohorts if isinstance(instance, Rank) else [instance.cohort]

    def check(holds: bool, what: str) -> None:
        if not holds:
            raise InvariantError(f"{name}: {what}")

    running = len(instance.running)
    members = [r for r in instance.running.values() if not r.prefilling and r not in instance.paused]
    check(running <= settings.max_num_seqs, f"{running} running, max_num_seqs is {settings.max_num_seqs}")
    check(instance.budget >= 0, f"the step is {-instance.budget} tokens over max_num_batched_tokens")
    check(0 <= cache.cached_blocks <= cache.free_blocks <= cache.num_blocks, "free and cached blocks do not add up")
    size, kv_tokens = sum(cohort.size for cohort in cohorts), sum(cohort.kv_tokens for cohort in cohorts)
    check(len(members) == size, f"cohort of {size}, but {len(members)} decoding requests")
    check(sum(sum(cohort.counts) for cohort in cohorts) == size, "members by block residue do not add up to the cohort")
    contexts = [r.base + cohorts[r.lane].round for r in members]
    check(sum(contexts) == kv_tokens, f"KV sum is {kv_tokens}, members hold {sum(contexts)}")
    if isinstance(instance, Rank):
        decoding = instance.lanes_in_flight
        check(len(set(decoding)) == len(decoding), "a decoding request is in two batches at once")
        check(instance.chunks_add_up(), "a request is in more or fewer batches in flight than it should be")
    else:
        decoding = [0] if instance.decoding and instance.busy else []
    if instance.tiers is not None:
        _check_tiers(instance, name)
    if not settings.enable_prefix_caching:
        used = cache.num_blocks - cache.free_blocks
        after = [context + (r.lane in decoding) for r, context in zip(members, contexts, strict=True)]
        held = sum(-(-context // settings.block_size) for context in after)
        held += sum(r.num_blocks for r in instance.running.values() if r.prefilling or r in instance.paused)
        held += sum(r.num_blocks for r in (*instance.held.values(), *instance.loading.values()))
        held += sum(r.num_blocks for r in instance.waiting)
        check(used == held, f"{used} blocks used, requests hold {held}")


def _check_tiers(instance: Instance, name: str) -> None:
    """Raise if a tier holds more than it can, or other than came and went, or recalls and their requests differ."""
    tiers = instance.tiers
    assert tiers is not None
    for store in tiers.tiers.hierarchy.tiers:
        held = store.stored_chunks - store.evicted_chunks
        if not len(store) == held <= store.capacity_chunks:
            raise InvariantError(
                f"{name}: tier {store.name} holds {len(store)} chunks, {held} came and stayed, "
                f"{store.capacity_chunks} fit"
            )
    waiting = {request.row for request in instance.waiting if request.remote == RECALLED}
    if not waiting <= set(tiers.loading) <= waiting | set(instance.loading):
        raise InvariantError(f"{name}: recalls of rows {sorted(tiers.loading)}, whose requests are elsewhere")
