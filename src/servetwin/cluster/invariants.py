"""Checks of an instance's state that hold after every event."""

from __future__ import annotations

from servetwin.core.errors import InvariantError
from servetwin.engine.instance import Instance


def check_instance(instance: Instance, name: str) -> None:
    """Raise if an instance contradicts itself.

    Raises
    ------
    InvariantError
        Naming the instance and the figures that disagree.
    """
    settings, cache, cohort = instance.settings, instance.cache, instance.cohort

    def check(holds: bool, what: str) -> None:
        if not holds:
            raise InvariantError(f"{name}: {what}")

    running = len(instance.running)
    members = [r for r in instance.running.values() if not r.prefilling and r not in instance.paused]
    check(running <= settings.max_num_seqs, f"{running} running, max_num_seqs is {settings.max_num_seqs}")
    check(instance.budget >= 0, f"the step is {-instance.budget} tokens over max_num_batched_tokens")
    check(0 <= cache.cached_blocks <= cache.free_blocks <= cache.num_blocks, "free and cached blocks do not add up")
    check(len(members) == cohort.size, f"cohort of {cohort.size}, but {len(members)} decoding requests")
    check(sum(cohort.counts) == cohort.size, "members by block residue do not add up to the cohort")
    contexts = [r.base + cohort.round for r in members]
    check(sum(contexts) == cohort.kv_tokens, f"KV sum is {cohort.kv_tokens}, members hold {sum(contexts)}")
    if not settings.enable_prefix_caching:
        used = cache.num_blocks - cache.free_blocks
        decoding = 1 if instance.decoding and instance.busy else 0
        held = sum(-(-(context + decoding) // settings.block_size) for context in contexts)
        held += sum(r.num_blocks for r in instance.running.values() if r.prefilling or r in instance.paused)
        check(used == held, f"{used} blocks used, requests hold {held}")
