"""The metrics again in the plainest way: from one list of token times per request, one request at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from servetwin.engine.base import COMPLETED, REJECTED
from servetwin.testing.outcomes import MadeOutcome


@dataclass
class Naive:
    """Naive measurements of an outcome whose token times are known."""

    made: MadeOutcome
    warmup_ns: int = 0

    def rows(self) -> Iterator[int]:
        """Yield the measured rows."""
        log = self.made.outcome.requests
        for row in range(len(log.state)):
            if log.state[row] == COMPLETED and log.arrival_ns[row] >= self.warmup_ns:
                yield row

    def latencies(self, name: str) -> list[float]:
        """Return a latency of the measured rows, in seconds; itl: every gap."""
        log, result = self.made.outcome.requests, []
        for row in self.rows():
            arrival, times = log.arrival_ns[row], self.made.token_times_ns[row]
            if name == "ttft_s":
                result.append((times[0] - arrival) / 1e9)
            elif name == "e2e_s":
                result.append((times[-1] - arrival) / 1e9)
            elif name == "queue_s":
                result.append((log.first_scheduled_ns[row] - arrival) / 1e9)
            elif name == "tpot_s" and len(times) > 1:
                result.append((times[-1] - times[0]) / (len(times) - 1) / 1e9)
            elif name == "itl_s":
                result += [(after - before) / 1e9 for before, after in pairwise(times)]
        return result

    def tokens_in(self, begin_ns: int, end_ns: int) -> int:
        """Return how many tokens appeared in a time."""
        return sum(begin_ns <= time < end_ns for times in self.made.token_times_ns for time in times)

    def prompts_in(self, begin_ns: int, end_ns: int) -> int:
        """Return the prompt tokens of the requests whose first token appeared in a time."""
        prompts = self.made.outcome.workload.prompt_tokens
        firsts = [(row, times[0]) for row, times in enumerate(self.made.token_times_ns) if times]
        return sum(int(prompts[row]) for row, first in firsts if begin_ns <= first < end_ns)

    def running_and_waiting(self, time_ns: int) -> tuple[int, int]:
        """Return how many requests run and wait just after the events of a time."""
        outcome = self.made.outcome
        log, running, waiting = outcome.requests, 0, 0
        for row in range(len(log.state)):
            if log.state[row] == REJECTED or not 0 <= log.arrival_ns[row] <= time_ns:
                continue
            if not 0 <= log.first_scheduled_ns[row] <= time_ns:
                waiting += 1
            elif log.state[row] != COMPLETED or log.finish_ns[row] > time_ns:
                running += 1
        for entry in outcome.logs:
            put_back = sum(t <= time_ns for t in entry.preempted_ns) - sum(t <= time_ns for t in entry.readmitted_ns)
            running, waiting = running - put_back, waiting + put_back
        return running, waiting

    def kv_bytes(self, time_ns: int) -> tuple[int, int]:
        """Return bytes of referenced and of cached blocks just after the events of a time."""
        used = cached = 0
        for spec, log in zip(self.made.outcome.instances, self.made.outcome.logs, strict=True):
            idle = zip(log.idle_ns, log.idle_used_blocks, log.idle_cached_blocks, strict=True)
            states = [(t, 0, used, c) for t, used, c in idle]
            states += [
                (t, 1, u, c) for t, u, c in zip(log.start_ns, log.kv_used_blocks, log.kv_cached_blocks, strict=True)
            ]
            past = [state for state in sorted(states) if state[0] <= time_ns]
            if past:
                used += past[-1][2] * spec.kv_bytes_per_block
                cached += past[-1][3] * spec.kv_bytes_per_block
        return used, cached

    def hit_rate(self, time_ns: int) -> float:
        """Return cached / looked-up prompt tokens of all admissions up to a time."""
        log, cached, looked_up = self.made.outcome.requests, 0, 0
        for row in range(len(log.state)):
            if 0 <= log.first_scheduled_ns[row] <= time_ns:
                cached += log.cached_tokens[row]
                looked_up += int(self.made.outcome.workload.prompt_tokens[row])
        return cached / looked_up if looked_up else 0.0


def statistics(values: list[float]) -> dict[str, float | None]:
    """Return mean and percentiles by numpy."""
    if not values:
        return dict.fromkeys(["mean", "p50", "p90", "p95", "p99"])
    percentiles = (float(value) for value in np.percentile(values, [50, 90, 95, 99]))
    return dict(zip(["mean", "p50", "p90", "p95", "p99"], [float(np.mean(values)), *percentiles], strict=True))


def same(got: dict[str, float | None], values: list[float]) -> bool:
    """Return whether statistics are those of a plain list, but for rounding."""
    expected = statistics(values)
    return got == (expected if not values else pytest.approx(expected, rel=1e-9, abs=1e-12))
