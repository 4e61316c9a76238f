"""What an instance writes down when a step or run has ended, and when a request leaves the cohort."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING

from servetwin.engine.request import Request

if TYPE_CHECKING:
    from servetwin.engine.instance import Instance

ROWS_AT_ONCE = 128


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

    Rows are kept aside, by column, and put into the log many at a time.
    """
    cache = instance.cache
    decoded = instance.cohort.size if instance.decoding else 0
    tokens = instance.settings.max_num_batched_tokens - instance.budget
    used, cached = instance.planned_blocks or (cache.num_blocks - cache.free_blocks, cache.cached_blocks)
    log_step(instance, (instance.start_ns, instance.ends_ns[0], decoded, tokens, used, cached))
    if steps > 1:
        _log_further_steps(instance, steps, used)
    if len(instance.step_rows[0]) >= ROWS_AT_ONCE:
        write_rows(instance)


def log_step(instance: Instance, row: tuple[int, int, int, int, int, int]) -> None:
    """Keep a step's row aside."""
    start_ns, end_ns, decoded, tokens, used, cached = instance.step_rows
    start_ns.append(row[0])
    end_ns.append(row[1])
    decoded.append(row[2])
    tokens.append(row[3])
    used.append(row[4])
    cached.append(row[5])


def _log_further_steps(instance: Instance, steps: int, used: int) -> None:
    used_blocks, cached_blocks = _blocks_of_further_steps(instance, steps, used)
    start_ns, end_ns, decoded, tokens, all_used, all_cached = instance.step_rows
    size = [instance.cohort.size] * (steps - 1)
    start_ns += instance.ends_ns[: steps - 1]
    end_ns += instance.ends_ns[1:steps]
    decoded += size
    tokens += size
    all_used += used_blocks
    all_cached += cached_blocks


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
    columns = (log.start_ns, log.end_ns, log.decoded, log.tokens, log.kv_used_blocks, log.kv_cached_blocks)
    for column, values in zip(columns, instance.step_rows, strict=True):
        column.fromlist(values)
        values.clear()
    if instance.span_rows:
        spans = (log.span_request, log.span_round, log.span_tokens)
        for column, kept in zip(spans, zip(*instance.span_rows, strict=True), strict=True):
            column.fromlist(list(kept))
        instance.span_rows.clear()
