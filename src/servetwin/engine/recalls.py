"""Recalls that steps do not wait for (``load: async``, as vLLM's connectors that load on their own).

A request that finds chunks in the tiers takes blocks for them when it stands at the head of the queue, and is *loading*
then: it takes no seat and no token. When its KV has come it waits again where it stood, and what is left of its prefill
is computed when it is let in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from servetwin.engine.kv_cache import Hits
from servetwin.engine.request import LOADING, LOCAL, RECALLED, Request
from servetwin.memory.tiers import Recall

if TYPE_CHECKING:
    from servetwin.engine.instance import Instance


@dataclass(slots=True)
class Loading:
    """A request's recall under way, or landed: what is read, and where its known tokens were found."""

    recall: Recall
    end_ns: int
    on_device: int
    recalled: int


def load_apart(instance: Instance, request: Request, hits: Hits, recalled: int, now_ns: int) -> bool:
    """Let the head of the queue take blocks, and its recall begin; return False if blocks are short."""
    cache, tiers = instance.cache, instance.tiers
    assert tiers is not None
    on_device = len(hits) * instance.block_size
    found = on_device + recalled
    held = request.known_tokens if instance.settings.scheduler_reserve_full_isl else found
    if cache.missing(request, hits, held) > cache.free_blocks:
        return False
    instance.waiting.popleft()
    cache.reserve(request, hits, found)
    request.computed_tokens = found
    request.remote = LOADING
    instance.loading[request.row] = request
    recall, end_ns = tiers.read(instance, request, on_device, now_ns)
    tiers.loading[request.row] = Loading(recall, end_ns, on_device, recalled)
    tiers.started.append((end_ns, request.row))
    return True


def land_recall(instance: Instance, row: int, now_ns: int) -> None:
    """Let a request be admitted whose KV has come from the tiers."""
    tiers = instance.tiers
    assert tiers is not None
    request = instance.loading.pop(row)
    tiers.tiers.finish_recall(tiers.loading[row].recall, now_ns)
    request.remote = RECALLED
    if instance.shares_blocks:
        instance.cache.register(request, request.computed_tokens)
    instance.waiting.push(request)


def admit_recalled(instance: Instance, request: Request, budget: int, chunk: bool, now_ns: int) -> int:
    """Let the head of the queue run, whose KV has come; return how many tokens it computes, 0 if it cannot."""
    cache, tiers, settings = instance.cache, instance.tiers, instance.settings
    assert tiers is not None
    tokens = request.known_tokens - request.computed_tokens
    if chunk:
        tokens = min(instance.wanted_tokens(request), budget)
    elif tokens > budget:
        return 0
    target = request.computed_tokens + tokens
    held = request.known_tokens if settings.scheduler_reserve_full_isl else target
    if -(-held // instance.block_size) - request.num_blocks > cache.free_blocks:
        return 0
    instance.waiting.popleft()
    cache.extend(request, target)
    request.remote = LOCAL
    loading = tiers.loading.pop(request.row)
    instance.enter(request, loading.on_device, now_ns, loading.recalled)
    instance.chunks.append((request, tokens))
    return tokens
