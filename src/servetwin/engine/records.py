"""What an instance writes down when a step or run has ended, and when a request leaves the cohort."""

from __future__ import annotations

from itertools import accumulate, islice, repeat
from typing import TYPE_CHECKING

from servetwin.engine.request import Request

if TYPE_CHECKING:
    from servetwin.engine.instance import Instance

ROWS_AT_ONCE = 128


def log_span(instance: Instance, request: Request) -> None:
    """Write down the tokens of a request's stay in the cohort."""
    tokens = instance.cohort.round - request.start_round
    if tokens:
        instance.span_rows.append((request.row, request.start_round, tokens))
        if instance.has_lanes:
            instance.log.span_lane.append(request.lane)


def log_steps(instance: Instance, steps: int) -> None:
    """Write down the steps that have ended (before the cohort advances), and take the blocks of a run's later ones.

    Rows are kept aside and put into the log's columns many at a time.
    """
    cache, rows = instance.cache, instance.step_rows
    decoded = instance.cohort.size if instance.decoding else 0
    tokens = instance.settings.max_num_batched_tokens - instance.budget
    used, cached = cache.num_blocks - cache.free_blocks, cache.cached_blocks
    if instance.planned_blocks:
        used, cached = instance.planned_blocks
    rows.append((instance.start_ns, instance.ends_ns[0], decoded, tokens, used, cached))
    if steps > 1:
        _log_further_steps(instance, steps, used)
    if len(rows) >= ROWS_AT_ONCE:
        write_rows(instance)


def _log_further_steps(instance: Instance, steps: int, used: int) -> None:
    cache, size, ends, rows = instance.cache, instance.cohort.size, instance.ends_ns, instance.step_rows
    needed = instance.cohort.blocks_of_rounds(1, steps + 1)
    if cache.cached_blocks == 0 and not instance.shares_blocks:
        in_use = islice(accumulate(needed[:-1], initial=used), 1, None)
        rows.extend(zip(ends, ends[1:steps], repeat(size), repeat(size), in_use, repeat(0), strict=False))
        cache.take(sum(needed[:-1]))
        return
    used, cached = cache.num_blocks - cache.free_blocks, cache.cached_blocks
    for i in range(1, steps):
        if needed[i - 1]:
            cache.take(needed[i - 1])
            used, cached = cache.num_blocks - cache.free_blocks, cache.cached_blocks
        if needed[i] and instance.shares_blocks:  # who begins a block in the next round fills one in this
            instance.register_filling(i)
        rows.append((ends[i - 1], ends[i], size, size, used, cached))


def write_rows(instance: Instance) -> None:
    """Put the steps and spans that were kept aside into the log's columns."""
    log = instance.log
    steps = (log.start_ns, log.end_ns, log.decoded, log.tokens, log.kv_used_blocks, log.kv_cached_blocks)
    spans = (log.span_request, log.span_round, log.span_tokens)
    for columns, rows in ((steps, instance.step_rows), (spans, instance.span_rows)):
        if rows:
            for column, values in zip(columns, zip(*rows, strict=True), strict=True):
                column.fromlist(list(values))
        rows.clear()
