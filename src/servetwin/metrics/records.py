"""What a simulation left behind, as NumPy columns that share memory with its logs."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import InstanceSpec, SimulationOutcome
from servetwin.core.units import NS_PER_S
from servetwin.engine.base import COMPLETED, REJECTED, InstanceLog
from servetwin.metrics.options import MetricOptions

Integers = NDArray[np.integer]
Floats = NDArray[np.float64]
Rows = slice | NDArray[np.int64]

EVERY_ROW = slice(None)


def column(values: array[int]) -> Integers:
    """Return a NumPy view of a log's column."""
    return np.asarray(values)


def busy_starts(log: InstanceLog) -> Integers:
    """Return from when each step kept its instance busy: its start, or the last end where batches overlap."""
    start = column(log.start_ns)
    return np.maximum(start, np.concatenate([start[:1], column(log.end_ns)[:-1]])) if log.lane else start


@dataclass(frozen=True, slots=True)
class Scope:
    """What is summed up together: the whole cluster, or one instance.

    Attributes
    ----------
    rows
        Rows of the requests in it.
    instances
        Numbers of the instances in it, consecutive.
    """

    rows: Rows
    instances: range


class Records:
    """The columns of an outcome, and which requests are measured.

    Attributes
    ----------
    arrival_ns, first_scheduled_ns, first_token_ns, finish_ns
        Times in nanoseconds, shape ``(requests,)``, ``NOT_YET`` where it has not happened.
    instance, state, cached_tokens, recomputed_tokens, preemptions, prompt_tokens, output_tokens
        Shape ``(requests,)``.
    """

    def __init__(self, outcome: SimulationOutcome, options: MetricOptions) -> None:
        log = outcome.requests
        self.outcome = outcome
        self.options = options
        self.arrival_ns = column(log.arrival_ns)
        self.instance = column(log.instance)
        self.state = column(log.state)
        self.first_scheduled_ns = column(log.first_scheduled_ns)
        self.first_token_ns = column(log.first_token_ns)
        self.finish_ns = column(log.finish_ns)
        self.cached_tokens = column(log.cached_tokens)
        self.recomputed_tokens = column(log.recomputed_tokens)
        self.preemptions = column(log.preemptions)
        self.prompt_tokens = outcome.workload.prompt_tokens
        self.output_tokens = outcome.workload.output_tokens

    @property
    def instances(self) -> Sequence[InstanceSpec]:
        """The instances, in the order of their numbers."""
        return self.outcome.instances

    @property
    def logs(self) -> Sequence[InstanceLog]:
        """One log per instance."""
        return self.outcome.logs

    def __len__(self) -> int:
        return len(self.state)

    @cached_property
    def came_ns(self) -> Integers:
        """When each request came to its instance's queue: at its arrival, or when its embeddings had come."""
        if self.outcome.encoding is None:
            return self.arrival_ns
        return np.maximum(self.arrival_ns, column(self.outcome.encoding.landed_ns))

    @cached_property
    def completed(self) -> NDArray[np.bool_]:
        """Which requests completed."""
        return np.equal(self.state, COMPLETED)

    @cached_property
    def admitted(self) -> NDArray[np.bool_]:
        """Which requests an instance has begun to serve."""
        return np.greater_equal(self.first_scheduled_ns, 0)

    @cached_property
    def queued(self) -> NDArray[np.bool_]:
        """Which requests arrived and were not rejected: they wait until they are admitted."""
        return np.greater_equal(self.arrival_ns, 0) & np.not_equal(self.state, REJECTED)

    @cached_property
    def measured(self) -> NDArray[np.bool_]:
        """Which requests latencies are measured of: completed, and arrived after the warm-up."""
        if not self.options.warmup_ns:
            return self.completed
        return self.completed & np.greater_equal(self.arrival_ns, self.options.warmup_ns)

    @cached_property
    def looked_up(self) -> NDArray[np.bool_]:
        """Which requests looked for their prompt in a prefix cache (at their first admission)."""
        caching = np.array([spec.settings.enable_prefix_caching for spec in self.instances] + [False])
        found = self.cached_tokens >= 0
        return found if caching[:-1].all() else found & caching[self.instance]

    @cached_property
    def start_ns(self) -> int:
        """The first arrival; 0 when none arrived."""
        arrived = self.arrival_ns[self.arrival_ns >= 0]
        return int(arrived.min()) if len(arrived) else 0

    @cached_property
    def stop_ns(self) -> int:
        """The last finish; of a run that was interrupted, its end."""
        if not self.outcome.complete:
            return max(self.outcome.end_ns, self.start_ns)
        return max(int(self.finish_ns[self.completed].max(initial=0)), self.start_ns)

    @cached_property
    def cluster(self) -> Scope:
        """Everything."""
        return Scope(EVERY_ROW, range(len(self.instances)))

    @cached_property
    def scopes(self) -> list[Scope]:
        """Each instance with the requests that it was given."""
        instance = self.instance.astype(np.int16) if len(self.instances) < 2**15 else self.instance
        order = np.argsort(instance, kind="stable")
        bounds = np.searchsorted(instance[order], np.arange(len(self.instances) + 1))
        return [Scope(order[bounds[i] : bounds[i + 1]], range(i, i + 1)) for i in range(len(self.instances))]

    def rows_where(self, chosen: NDArray[np.bool_], rows: Rows) -> Rows:
        """Return those of ``rows`` that are chosen."""
        if isinstance(rows, slice):
            return rows if chosen.all() else np.flatnonzero(chosen)
        return rows[chosen[rows]]


def latencies_s(records: Records, rows: Rows) -> dict[str, Floats]:
    """Return the latencies of completed requests, in seconds, by the names of ``LATENCIES``.

    ttft = first token - arrival; tpot = (finish - first token) / (output tokens - 1), NaN for one token;
    e2e = finish - arrival; queue = first scheduled - arrival.
    """
    arrival, first, finish = records.arrival_ns[rows], records.first_token_ns[rows], records.finish_ns[rows]
    further = (records.output_tokens[rows] - 1).astype(np.float64)
    further[further == 0] = np.nan
    return {
        "ttft_s": (first - arrival) / NS_PER_S,
        "tpot_s": (finish - first) / further / NS_PER_S,
        "e2e_s": (finish - arrival) / NS_PER_S,
        "queue_s": (records.first_scheduled_ns[rows] - arrival) / NS_PER_S,
    }
