"""What happened over time: rates per interval, and the state at the begin of each interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.core.units import NS_PER_S
from servetwin.engine.base import InstanceLog
from servetwin.metrics.records import Floats, Integers, Records, Rows, Scope, busy_starts, column

MAX_INTERVALS = 1_000_000
"""A run with more intervals than this gets longer ones, and a notice."""

MAX_INSTANCE_INTERVALS = 2_000_000
"""The same for intervals times instances (``resources.csv`` has seven rows for each), from 1,000 intervals on."""


def most_intervals(num_instances: int) -> int:
    """Return the greatest number of intervals of a run."""
    return min(MAX_INTERVALS, max(1_000, MAX_INSTANCE_INTERVALS // num_instances))


TIMELINE_COLUMNS = (
    "time_s",
    "output_tokens_per_s",
    "prompt_tokens_per_s",
    "running",
    "waiting",
    "kv_used_bytes",
    "kv_cached_bytes",
    "prefix_hit_rate",
)


@dataclass(frozen=True, slots=True)
class Grid:
    """Equal intervals ``[i * interval_ns, (i + 1) * interval_ns)`` from time 0 to the end of the run.

    Attributes
    ----------
    interval_ns
        Length of an interval.
    count
        How many there are; the last one holds the last event.
    """

    interval_ns: int
    count: int

    @classmethod
    def of(cls, records: Records) -> Grid:
        """Return the grid of a run; its interval is a multiple of the wanted one if there were too many."""
        wanted = records.options.interval_ns
        end_ns = max(records.outcome.end_ns, records.stop_ns, *(log.end_ns[-1] for log in records.logs if log.end_ns))
        interval_ns = wanted * (1 + end_ns // wanted // most_intervals(len(records.instances)))
        return cls(interval_ns, end_ns // interval_ns + 1)

    @property
    def start_ns(self) -> NDArray[np.int64]:
        """When each interval begins, shape ``(count,)``."""
        return np.arange(self.count, dtype=np.int64) * self.interval_ns

    def per_second(self, times_ns: Integers, weights: Integers | None = None) -> Floats:
        """Return the sum of weights (1 each) of the events in each interval, per second."""
        totals = np.bincount(times_ns // self.interval_ns, weights, minlength=self.count).astype(np.float64)
        return totals * (NS_PER_S / self.interval_ns)

    def so_far(self, times_ns: Integers, weights: Integers | None = None) -> NDArray[np.int64]:
        """Return the sum of weights (1 each) of all events up to each interval's begin, events at it included."""
        first_after = -(-times_ns // self.interval_ns)  # the first begin that is not before the event
        totals = np.bincount(first_after, weights, minlength=self.count)[: self.count]
        return np.cumsum(totals).astype(np.int64)


def timeline(records: Records, grid: Grid, scope: Scope) -> dict[str, NDArray[Any]]:
    """Return the columns ``TIMELINE_COLUMNS`` of a scope, one row per interval.

    Rates count what happened in ``[t, t + interval)``: tokens at the ends of their steps, a prompt when its first token
    appears, or when it is handed over. The rest is the state at ``t``, after all events of that time.
    """
    running, waiting = _running_and_waiting(records, grid, scope)
    used, cached = kv_bytes(records, grid, scope)
    output, prompt = _token_rates(records, grid, scope)
    return {
        "time_s": grid.start_ns / NS_PER_S,
        "output_tokens_per_s": output,
        "prompt_tokens_per_s": prompt,
        "running": running,
        "waiting": waiting,
        "kv_used_bytes": used,
        "kv_cached_bytes": cached,
        "prefix_hit_rate": _hit_rate(records, grid, scope.prompts),
    }


def kv_bytes(records: Records, grid: Grid, scope: Scope) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the bytes of referenced blocks, and of reusable unreferenced ones, at the begin of each interval."""
    used, cached = np.zeros(grid.count, np.int64), np.zeros(grid.count, np.int64)
    for i in scope.instances:
        used_blocks, cached_blocks = kv_blocks(records.logs[i], grid.start_ns)
        used += used_blocks * records.instances[i].kv_bytes_per_block
        cached += cached_blocks * records.instances[i].kv_bytes_per_block
    return used, cached


def kv_blocks(log: InstanceLog, times_ns: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return used and cached blocks of an instance at some times.

    A step's values hold from its start until the next step's start, or until the instance falls idle; those of an idle
    instance until its next step.
    """
    start, idle = column(log.start_ns), column(log.idle_ns)
    step = np.searchsorted(start, times_ns, side="right") - 1
    rest = np.searchsorted(idle, times_ns, side="right") - 1
    # index -1, before the first one, reads the value that is put at the end
    is_idle = np.append(idle, -1)[rest] > np.append(start, -1)[step]
    used = np.append(column(log.kv_used_blocks), 0).astype(np.int64)[step]
    cached = np.append(column(log.kv_cached_blocks), 0).astype(np.int64)[step]
    idle_used = np.append(column(log.idle_used_blocks), 0).astype(np.int64)[rest]
    idle_cached = np.append(column(log.idle_cached_blocks), 0).astype(np.int64)[rest]
    return np.where(is_idle, idle_used, used), np.where(is_idle, idle_cached, cached)


def busy_fraction(log: InstanceLog, grid: Grid) -> Floats:
    """Return the share of each interval in which the instance computes a step, shape ``(grid.count,)``."""
    bounds = np.append(grid.start_ns, grid.count * grid.interval_ns)
    start, end = busy_starts(log), column(log.end_ns)
    if not len(start):
        return np.zeros(grid.count)
    done = np.concatenate([[0], np.cumsum(end - start)])
    begun = np.searchsorted(start, bounds, side="left")
    unfinished = np.where(begun > 0, np.maximum(end[begun - 1] - bounds, 0), 0)
    return np.diff(done[begun] - unfinished) / grid.interval_ns


def transferring(records: Records, grid: Grid, scope: Scope) -> NDArray[np.int64]:
    """Return how many of the waiting requests wait for KV that is on its way to them."""
    taken = scope.taken
    return _happened(grid, records.transfer_ns[taken]) - _happened(grid, records.landed_ns[taken])


def _running_and_waiting(records: Records, grid: Grid, scope: Scope) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many requests run, and how many wait to be admitted or admitted again."""
    prompts, outputs = scope.prompts, scope.outputs
    came = grid.so_far(records.joined_ns[prompts][records.queued[prompts]])
    admitted = grid.so_far(records.first_scheduled_ns[prompts][records.admitted[prompts]])
    left = grid.so_far(records.finish_ns[outputs][records.completed[outputs]])
    if records.apart:
        left += _happened(grid, records.handed_over_ns[prompts])
        came += _happened(grid, records.come_ns[scope.taken])
        admitted += _happened(grid, records.decode_admitted_ns[scope.taken])
    put_back = np.zeros(grid.count, np.int64)
    for i in scope.instances:
        log = records.logs[i]
        put_back += grid.so_far(column(log.preempted_ns)) - grid.so_far(column(log.readmitted_ns))
    return admitted - put_back - left, came - admitted + put_back


def _happened(grid: Grid, times_ns: Integers) -> NDArray[np.int64]:
    """Return how many of some events have happened at each interval's begin; negative times: never."""
    return grid.so_far(times_ns[times_ns >= 0])


def _token_rates(records: Records, grid: Grid, scope: Scope) -> tuple[Floats, Floats]:
    """Return output and prompt tokens per second."""
    first = records.first_token_ns[scope.rows]
    began = records.first_here(scope)
    output = grid.per_second(first[began])
    computed = records.prompt_ns[scope.prompts]
    ended = computed >= 0
    prompt = grid.per_second(computed[ended], records.prompt_tokens[scope.prompts][ended])
    for i in scope.instances:
        log = records.logs[i]
        output += grid.per_second(column(log.end_ns), column(log.decoded)) + grid.per_second(column(log.resumed_ns))
    return output, prompt


def _hit_rate(records: Records, grid: Grid, rows: Rows) -> Floats:
    """Return cached / looked-up prompt tokens of all first admissions so far; 0 before the first."""
    chosen = records.rows_where(records.looked_up, rows)
    admitted = records.first_scheduled_ns[chosen]
    cached = grid.so_far(admitted, records.cached_tokens[chosen])
    return cached / np.maximum(grid.so_far(admitted, records.prompt_tokens[chosen]), 1)
