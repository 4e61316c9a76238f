"""What an instance writes down when a step or run has ended, and when a request leaves the cohort."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from servetwin.engine.request import Request

if TYPE_CHECKING:
    from servetwin.engine.instance import Instance


def log_span(instance: Instance, request: Request) -> None:
    """Write down the tokens of a request's stay in the cohort."""
    tokens = instance.cohort.round - request.start_round
    if tokens:
        log = instance.log
        log.span_request.append(request.row)
        log.span_round.append(request.start_round)
        log.span_tokens.append(tokens)


def log_steps(instance: Instance, steps: int) -> None:
    """Write down the steps that have ended (before the cohort advances), and take the blocks of a run's later ones."""
    log, cache, chunks = instance.log, instance.cache, instance.chunks
    decoded = instance.cohort.size if instance.decoding else 0
    log.start_ns.append(instance.start_ns)
    log.end_ns.append(instance.ends_ns[0])
    log.decoded.append(decoded)
    log.tokens.append(decoded + sum([tokens for _, tokens in chunks]) if chunks else decoded)
    log.kv_used_blocks.append(cache.num_blocks - cache.free_blocks)
    log.kv_cached_blocks.append(cache.cached_blocks)
    if steps > 1:
        _log_further_steps(instance, steps)


def _log_further_steps(instance: Instance, steps: int) -> None:
    log, cache, size, ends = instance.log, instance.cache, instance.cohort.size, instance.ends_ns
    log.start_ns.extend(ends[: steps - 1])
    log.end_ns.extend(ends[1:steps])
    same = [size] * (steps - 1)
    log.decoded.extend(same)
    log.tokens.extend(same)
    needed = instance.cohort.blocks_of_rounds(1, steps)
    if cache.cached_blocks == 0 and not instance.shares_blocks:
        used = cache.num_blocks - cache.free_blocks
        log.kv_used_blocks.extend(list(accumulate(needed, initial=used))[1:])
        log.kv_cached_blocks.extend([0] * (steps - 1))
        cache.take(sum(needed))
        return
    for i, blocks in enumerate(needed, start=1):
        cache.take(blocks)
        if instance.shares_blocks:
            instance.register_filling(i)
        log.kv_used_blocks.append(cache.num_blocks - cache.free_blocks)
        log.kv_cached_blocks.append(cache.cached_blocks)
