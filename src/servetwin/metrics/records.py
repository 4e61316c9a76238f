"""What a simulation left behind, as NumPy columns that share memory with its logs."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import InstanceSpec, SimulationOutcome
from servetwin.core.units import NS_PER_S
from servetwin.engine.base import COMPLETED, NOT_YET, REJECTED, InstanceLog
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
        Rows of the requests that it served, or a part of them.
    instances
        Numbers of the instances in it, consecutive.
    prompts
        Of ``rows``, those whose prompt is (to be) computed here.
    outputs
        Of ``rows``, those that ended here, or are here now.
    taken
        Of ``outputs``, those whose prompt was computed elsewhere.
    """

    rows: Rows
    instances: range
    prompts: Rows
    outputs: Rows
    taken: NDArray[np.int64]


class Records:
    """The columns of an outcome, and which requests are measured.

    Attributes
    ----------
    arrival_ns, first_scheduled_ns, first_token_ns, finish_ns
        Times in nanoseconds, shape ``(requests,)``, ``NOT_YET`` where it has not happened.
    handed_over_ns, transfer_ns, landed_ns, decode_admitted_ns
        The same for requests whose output another instance computes than their prompt.
    instance, state, cached_tokens, recomputed_tokens, preemptions, prompt_tokens, output_tokens
        Shape ``(requests,)``.
    prefill_instance
        Which instance computed (or is to compute) the prompt, shape ``(requests,)``.
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
        self.handed_over_ns = column(log.handed_over_ns)
        self.transfer_ns = column(log.transfer_ns)
        self.landed_ns = column(log.landed_ns)
        self.decode_admitted_ns = column(log.decode_admitted_ns)
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
    def joined_ns(self) -> Integers:
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
        """Which requests arrived and were not rejected then: they wait until they are admitted."""
        return np.greater_equal(self.arrival_ns, 0) & (np.not_equal(self.state, REJECTED) | self.admitted)

    @cached_property
    def apart(self) -> bool:
        """Whether some instances compute prompts only, or outputs only."""
        return any(spec.role != "both" for spec in self.instances)

    @cached_property
    def handed_over(self) -> NDArray[np.bool_]:
        """Which requests left the instance that computed their prompt."""
        return np.greater_equal(self.handed_over_ns, 0)

    @cached_property
    def prefill_instance(self) -> Integers:
        """Which instance computed the prompt; where it was not handed over, the only one."""
        if not self.apart:
            return self.instance
        return np.where(self.handed_over, column(self.outcome.requests.prefill_instance), self.instance)

    @cached_property
    def come_ns(self) -> Integers:
        """When a request that was handed over came to the next instance; ``NOT_YET`` where it was rejected there."""
        stays = self.handed_over & np.not_equal(self.state, REJECTED)
        return np.where(stays, self.handed_over_ns + self.outcome.handoff_ns, NOT_YET)

    @cached_property
    def prompt_ns(self) -> Integers:
        """When the prompt was computed: at the hand-over, or when the first token appeared."""
        if not self.apart:
            return self.first_token_ns
        return np.where(self.handed_over, self.handed_over_ns, self.first_token_ns)

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
        return found if caching[:-1].all() else found & caching[self.prefill_instance]

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
        taken = np.flatnonzero(self.handed_over)
        return Scope(EVERY_ROW, range(len(self.instances)), EVERY_ROW, EVERY_ROW, taken)

    @cached_property
    def scopes(self) -> list[Scope]:
        """Each instance with the requests that it was given."""
        ends = _rows_by(self.instance, len(self.instances))
        if not self.apart:
            return [Scope(rows, range(i, i + 1), rows, rows, rows[:0]) for i, rows in enumerate(ends)]
        begins = _rows_by(self.prefill_instance, len(self.instances))
        return [self._scope(range(i, i + 1), *rows) for i, rows in enumerate(zip(begins, ends, strict=True))]

    @cached_property
    def pools(self) -> list[tuple[str, Scope]]:
        """Each pool (neighbouring instances of one name) with the requests that its instances were given."""
        pools = []
        for name, members in groupby(range(len(self.instances)), lambda number: self.instances[number].pool):
            own = list(members)
            if len(own) == len(self.instances):
                return [(name, self.cluster)]
            prompts = np.concatenate([self.scopes[i].prompts for i in own])
            outputs = np.concatenate([self.scopes[i].outputs for i in own])
            pools.append((name, self._scope(range(own[0], own[-1] + 1), prompts, outputs)))
        return pools

    def _scope(self, instances: range, prompts: NDArray[np.int64], outputs: NDArray[np.int64]) -> Scope:
        """Return a scope of rows whose prompt, or output, is computed in it."""
        prompts, outputs = np.sort(prompts), np.sort(outputs)
        return Scope(np.union1d(prompts, outputs), instances, prompts, outputs, outputs[self.handed_over[outputs]])

    @cached_property
    def first_token_instance(self) -> Integers:
        """Which instance made the first token."""
        if not self.apart:
            return self.instance
        on_prefill = ~self.handed_over | (self.first_token_ns <= self.handed_over_ns)
        return np.where(on_prefill, self.prefill_instance, self.instance)

    def first_here(self, scope: Scope) -> NDArray[np.bool_]:
        """Return which of the rows of a scope had their first token made in it."""
        instance = self.first_token_instance[scope.rows]
        inside = (instance >= scope.instances.start) & (instance < scope.instances.stop)
        return np.greater_equal(self.first_token_ns[scope.rows], 0) & inside

    @cached_property
    def preempted_ns(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How long each request was out after preemptions: before its prompt was computed, and in all.

        Of a request that never came back, the numbers mean nothing.
        """
        early, in_all = np.zeros(len(self), np.int64), np.zeros(len(self), np.int64)
        for log in self.logs:
            for sign, rows, times_ns in (
                (-1, column(log.preempted_request), column(log.preempted_ns)),
                (1, column(log.readmitted_request), column(log.readmitted_ns)),
            ):
                soon = times_ns < self.prompt_ns[rows]
                np.add.at(in_all, rows, sign * times_ns)
                np.add.at(early, rows[soon], sign * times_ns[soon])
        return early, in_all

    def rows_where(self, chosen: NDArray[np.bool_], rows: Rows) -> Rows:
        """Return those of ``rows`` that are chosen."""
        if isinstance(rows, slice):
            return rows if chosen.all() else np.flatnonzero(chosen)
        return rows[chosen[rows]]


def _rows_by(numbers: Integers, count: int) -> list[NDArray[np.int64]]:
    """Return the rows of each number, ascending."""
    small = numbers.astype(np.int16) if count < 2**15 else numbers
    order = np.argsort(small, kind="stable")
    bounds = np.searchsorted(small[order], np.arange(count + 1))
    return [order[bounds[i] : bounds[i + 1]] for i in range(count)]


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
