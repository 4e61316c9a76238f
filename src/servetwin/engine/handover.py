"""Requests whose prompt is computed on one instance and whose output on another, from both instances' sides.

The first hands a request over when its prompt is computed, and keeps its blocks until the KV has come to the second.
That one takes blocks for the prompt when the request stands at the head of its queue (it is *loading* then, takes no
seat and no token), and lets it run like any other when the KV has landed: what is left of its prefill is one token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from servetwin.engine.request import LANDED, LOADING, Request

if TYPE_CHECKING:
    from servetwin.engine.instance import Instance


def hand_over(instance: Instance, request: Request, now_ns: int) -> None:
    """Let a request go whose prompt has just been computed; its blocks stay."""
    requests, row = instance.requests, request.row
    if instance.hands_over == "prefill" and requests.first_token_ns[row] < 0:
        requests.first_token_ns[row] = now_ns
    requests.handed_over_ns[row] = now_ns
    del instance.running[row]
    instance.held[row] = request
    instance.handed_over.append(request)


def release_held(instance: Instance, row: int) -> None:
    """Give the blocks of a request back that was handed over."""
    request = instance.held.pop(row)
    instance.cache.release(request, request.computed_tokens)


def admit_remote(instance: Instance, request: Request, now_ns: int) -> bool:
    """Take the head of the queue, whose KV comes from elsewhere, a step further; return False if blocks are short."""
    if request.remote != LANDED:
        return _reserve(instance, request)
    cache = instance.cache
    if -(-request.known_tokens // instance.block_size) - request.num_blocks > cache.free_blocks:
        return False
    instance.waiting.popleft()
    if instance.tiers is not None:
        instance.tiers.landed(request)
    cache.extend(request, request.known_tokens)
    instance.enter(request, request.known_tokens - 1, now_ns)
    instance.chunks.append((request, 1))
    return True


def _reserve(instance: Instance, request: Request) -> bool:
    """Take blocks for all tokens but the last, which is computed here."""
    cache, known_tokens = instance.cache, request.known_tokens
    request.known_tokens = request.prompt_tokens
    hits = cache.lookup(request) if instance.settings.enable_prefix_caching else ()
    request.known_tokens = known_tokens
    if cache.missing(request, hits, known_tokens) > cache.free_blocks:
        return False
    cache.reserve(request, hits, known_tokens - 1)
    instance.reserved.append((request, known_tokens - 1 - len(hits) * instance.block_size))
    if instance.instant_transfers:
        _arrived(instance, request)
        return True
    instance.waiting.popleft()
    request.remote = LOADING
    instance.loading[request.row] = request
    return True


def land(instance: Instance, row: int) -> None:
    """Let a request be admitted whose KV has come."""
    request = instance.loading.pop(row)
    _arrived(instance, request)
    instance.waiting.push(request)


def _arrived(instance: Instance, request: Request) -> None:
    request.remote = LANDED
    if instance.shares_blocks:
        instance.cache.register(request, request.known_tokens - 1)
