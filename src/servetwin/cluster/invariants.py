"""Checks of an instance's state that hold after every event."""

from __future__ import annotations

from collections.abc import Sequence

from servetwin.core.errors import InvariantError
from servetwin.engine.cohort import DecodeCohort
from servetwin.engine.instance import Instance
from servetwin.engine.rank import Rank
from servetwin.engine.request import RECALLED, Request


def check_instance(instance: Instance, name: str) -> None:
    """Raise if an instance contradicts itself.

    Raises
    ------
    InvariantError
        Naming the instance and the figures that disagree.
    """
    members = [request for request in instance.running.values() if not request.prefilling]
    if instance.paused:
        members = [request for request in members if request not in instance.paused]
    wrong = _limits(instance) or _cohorts(instance, members)
    if isinstance(instance, Rank):
        wrong = wrong or _batches(instance)
    if not instance.settings.enable_prefix_caching:
        wrong = wrong or _blocks(instance, members)
    if wrong:
        raise InvariantError(f"{name}: {wrong}")
    if instance.tiers is not None:
        _check_tiers(instance, name)


def _limits(instance: Instance) -> str:
    """Return what is beyond its limits, if anything."""
    running, most = len(instance.running), instance.settings.max_num_seqs
    if running > most:
        return f"{running} running, max_num_seqs is {most}"
    if instance.budget < 0:
        return f"the step is {-instance.budget} tokens over max_num_batched_tokens"
    cache = instance.cache
    if not 0 <= cache.cached_blocks <= cache.free_blocks <= cache.num_blocks:
        return "free and cached blocks do not add up"
    return ""


def _cohorts(instance: Instance, members: Sequence[Request]) -> str:
    """Return where cohorts and their members (the requests that decode) disagree, if they do."""
    cohorts = _cohorts_of(instance)
    size = kv_tokens = by_residue = 0
    for cohort in cohorts:
        size += cohort.size
        kv_tokens += cohort.kv_tokens
        by_residue += sum(cohort.counts)
    if len(members) != size:
        return f"cohort of {size}, but {len(members)} decoding requests"
    if by_residue != size:
        return "members by block residue do not add up to the cohort"
    if len(cohorts) == 1:
        held = sum([request.base for request in members]) + size * cohorts[0].round
    else:
        held = sum([request.base + cohorts[request.lane].round for request in members])
    return f"KV sum is {kv_tokens}, members hold {held}" if held != kv_tokens else ""


def _cohorts_of(instance: Instance) -> Sequence[DecodeCohort]:
    return instance.cohorts if isinstance(instance, Rank) else (instance.cohort,)


def _batches(rank: Rank) -> str:
    """Return where the batches of a pipeline disagree with their requests, if they do."""
    decoding = rank.lanes_in_flight
    if len(set(decoding)) != len(decoding):
        return "a decoding request is in two batches at once"
    return "" if rank.chunks_add_up() else "a request is in more or fewer batches in flight than it should be"


def _blocks(instance: Instance, members: Sequence[Request]) -> str:
    """Return where the blocks in use are not those that requests hold, if they are not."""
    cohorts, block_size = _cohorts_of(instance), instance.settings.block_size
    if isinstance(instance, Rank):
        decoding = instance.lanes_in_flight
    else:
        decoding = [0] if instance.decoding and instance.busy else []
    held = sum(-(-(r.base + cohorts[r.lane].round + (r.lane in decoding)) // block_size) for r in members)
    held += sum(r.num_blocks for r in instance.running.values() if r.prefilling or r in instance.paused)
    held += sum(r.num_blocks for r in (*instance.held.values(), *instance.loading.values()))
    held += sum(r.num_blocks for r in instance.waiting)
    used = instance.cache.num_blocks - instance.cache.free_blocks
    return f"{used} blocks used, requests hold {held}" if used != held else ""


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
