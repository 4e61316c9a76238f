"""Which KV cache an instance needs."""

from __future__ import annotations

from servetwin.engine.base import EngineSettings
from servetwin.engine.kv_cache import BlockCounter, KVCache
from servetwin.engine.prefix_cache import PrefixCache, Shared
from servetwin.engine.private_cache import PrivatePrefixCache


def make_kv_cache(
    settings: EngineSettings, *, distinct: bool, distinct_answers: bool = False, preempts_by_key: bool
) -> KVCache:
    """Return the cheapest cache that is exact.

    Parameters
    ----------
    distinct
        No two requests share content.
    distinct_answers
        No two requests share blocks that hold tokens of answers.
    preempts_by_key
        A request can be preempted in the very step that gave it tokens; its blocks then count as cached although
        nobody computed them (as in vLLM), which only the cache of single blocks can say.
    """
    if not settings.enable_prefix_caching:
        return BlockCounter(settings.num_blocks, settings.block_size)
    if distinct and not preempts_by_key:
        return PrivatePrefixCache(settings.num_blocks, settings.block_size)
    shared: Shared = "nothing" if distinct else "prompts" if distinct_answers else "everything"
    return PrefixCache(settings.num_blocks, settings.block_size, shared=shared)
