"""What an instance writes down when a step or run has ended, and when a request leaves the cohort."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import accumulate, repeat
from typing import TYPE_CHECKING

from servetwin.engine.request import Request

if TYPE_CHECKING:
    from servetwin.engine.instance import Instance

ROWS_AT_ONCE = 128

STEPS_AT_ONCE = 24
"""Runs of at least so many steps go into the log's columns by themselves."""


def log_spans(instance: Instance, requests: Iterable[Request]) -> None:
    """Write down the tokens of requests' stays in the cohort."""
    now, rows = instance.cohort.round, instance.span_rows
    for request in requests:
        start = request.start_round
        if now > start:
            rows.append((request.row, start, now - start))
            if instance.has_lanes:
                instance.log.span_lane.append(request.lane)


def log_steps(instance: Instance, steps: int) -> None:
    """Write down the steps that have ended (before the cohort advances), and take the blocks of a run's later ones.

    Rows are kept aside and put into the log's columns many at a time.
    """
    cache, rows = instance.cache, instance.step_rows
    decoded = instance.cohort.size if instance.decoding else 0
    tokens = instance.step_budget - instance.budget
    used, cached = cache.num_blocks - cache.free_blocks, cache.cached_blocks
    if instance.planned_blocks:
        used, cached = instance.planned_blocks
    rows.append((instance.start_ns, instance.ends_ns[0], decoded, tokens, used, cached))
    if steps > 1:
        _log_further_steps(instance, steps, used)
    if len(rows) >= ROWS_AT_ONCE:
        write_rows(instance)


def _log_further_steps(instance: Instance, steps: int, used: int) -> None:
    used_blocks, cached_blocks = _blocks_of_further_steps(instance, steps, used)
    ends, size = instance.ends_ns, instance.cohort.size
    if steps < STEPS_AT_ONCE:
        rows = zip(ends, ends[1:steps], repeat(size), repeat(size), used_blocks, cached_blocks, strict=False)
        instance.step_rows.extend(rows)
        return
    write_rows(instance)
    log, ends = instance.log, list(ends)
    log.start_ns.fromlist(ends[: steps - 1])
    log.end_ns.fromlist(ends[1:steps])
    log.decoded.extend(array("i", [size]) * (steps - 1))
    log.tokens.extend(array("i", [size]) * (steps - 1))
    log.kv_used_blocks.fromlist(used_blocks)
    log.kv_cached_blocks.fromlist(cached_blocks)


def _blocks_of_further_steps(instance: Instance, steps: int, used: int) -> tuple[list[int], list[int]]:
    """Take the blocks of a run's later steps, and let those be found that they fill; return used and cached ones."""
    cache = instance.cache
    needed = instance.cohort.blocks_of_rounds(1, steps + 1)
    if cache.cached_blocks == 0 and not instance.registers_answers:
        cache.take(sum(needed[:-1]))
        return list(accumulate(needed[:-1], initial=used))[1:], [0] * (steps - 1)
    used, cached = cache.num_blocks - cache.free_blocks, cache.cached_blocks
    used_blocks: list[int] = []
    cached_blocks: list[int] = []
    for i, blocks in enumerate(needed):
        if not blocks:
            continue
        if i and instance.registers_answers and i < steps:  # who begins a block in the next round fills one in this
            instance.register_filling(i)
        if i < steps - 1:
            same = i - len(used_blocks)
            used_blocks += [used] * same
            cached_blocks += [cached] * same
            cache.take(blocks)
            used, cached = cache.num_blocks - cache.free_blocks, cache.cached_blocks
    same = steps - 1 - len(used_blocks)
    return used_blocks + [used] * same, cached_blocks + [cached] * same


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
