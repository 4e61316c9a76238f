"""When each token appeared, recovered from the spans that the instances wrote down.

A span says that a request got one token in each of some consecutive rounds of its instance. So the gaps between tokens
need no list of tokens: the gap between two consecutive rounds counts once for every span that covers both, and where a
span begins there is one gap more, to the token before it.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from servetwin.core.units import NS_PER_S
from servetwin.engine.base import InstanceLog
from servetwin.metrics.records import Floats, Integers, Records, Scope, column


class Gaps(NamedTuple):
    """Gaps between consecutive tokens, in seconds, and how often each occurred; both of shape ``(n,)``."""

    seconds: Floats
    weights: NDArray[np.int64]


class TokenLog:
    """The tokens of all requests. Rounds are numbered through: those of instance 0, then those of instance 1, ...

    Attributes
    ----------
    round_end_ns
        When each round ended, shape ``(rounds,)``.
    first_round
        Number of each instance's first round, and of all rounds at the end, shape ``(instances + 1,)``.
    span_request, span_first, span_last
        Request, first and last round of each span, shape ``(spans,)``.
    resumed_request, resumed_ns
        Request and time of each token at the end of a prefill after a preemption.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        logs = records.logs
        ends = [_round_ends(log) for log in logs]
        self.first_round = np.cumsum([0] + [len(end) for end in ends])
        self.round_end_ns = _concatenate(ends)
        self.span_request = _concatenate([column(log.span_request) for log in logs])
        begins = [_span_rounds(log) + first for log, first in zip(logs, self.first_round, strict=False)]
        self.span_first = _concatenate(begins)
        self.span_last = self.span_first + _concatenate([column(log.span_tokens) for log in logs]) - 1
        self.resumed_request = _concatenate([column(log.resumed_request) for log in logs])
        self.resumed_ns = _concatenate([column(log.resumed_ns) for log in logs])

    def gaps(self, scope: Scope) -> Gaps:
        """Return the gaps between the tokens of the measured requests of ``scope`` (inter-token latencies)."""
        start, stop = scope.instances.start, scope.instances.stop
        first, last = self.first_round[start], self.first_round[stop]
        seconds, bounds = self._joins
        joins = seconds[bounds[start] : bounds[stop]]
        between = np.diff(self.round_end_ns[first:last]) / NS_PER_S  # negative from one instance to the next: weight 0
        weights = self._round_weights[first : first + len(between)]
        return Gaps(np.concatenate([between, joins]), np.concatenate([weights, np.ones(len(joins), np.int64)]))

    def times_ns(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and time of every token of ``rows``, ordered by row, then by time; two columns of one length."""
        began = rows[self._records.first_token_ns[rows] >= 0]
        wanted = np.zeros(len(self._records), dtype=bool)
        wanted[began] = True
        spans, resumed = np.flatnonzero(wanted[self.span_request]), np.flatnonzero(wanted[self.resumed_request])
        ends = _concatenate([self.round_end_ns, self._records.first_token_ns[began], self.resumed_ns[resumed]])
        singles = np.arange(len(self.round_end_ns), len(ends))  # the tokens outside of rounds, as rounds of their own
        request = _concatenate([self.span_request[spans], began, self.resumed_request[resumed]])
        first = np.concatenate([self.span_first[spans], singles])
        count = np.concatenate([(self.span_last - self.span_first)[spans] + 1, np.ones_like(singles)])
        order = np.lexsort((ends[first], request))
        request, first, count = request[order], first[order], count[order]
        index = np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)
        return np.repeat(request, count), ends[index]

    @cached_property
    def _measured_span(self) -> NDArray[np.bool_]:
        return self._records.measured[self.span_request]

    @cached_property
    def _round_weights(self) -> NDArray[np.int64]:
        """How many spans of measured requests cover both a round and the next one."""
        chosen, rounds = self._measured_span, len(self.round_end_ns)
        begun = np.bincount(self.span_first[chosen], minlength=rounds)
        return np.cumsum(begun - np.bincount(self.span_last[chosen], minlength=rounds))

    @cached_property
    def _joins(self) -> tuple[Floats, NDArray[np.int64]]:
        """Gaps at the begin of spans and at resumed tokens, in seconds, by instance; where each instance's begin."""
        pieces = np.bincount(self.span_request, minlength=len(self._records))
        pieces += np.bincount(self.resumed_request, minlength=len(self._records))
        alone = pieces[self.span_request] == 1
        request, gap = self._first_joins(self._measured_span & alone)
        other_request, other_gap = self._later_joins(self._measured_span & ~alone)
        request, gap = np.concatenate([request, other_request]), np.concatenate([gap, other_gap])
        instances = len(self._records.instances)
        instance = self._records.instance[request].astype(np.int16 if instances < 2**15 else np.int32)
        order = np.argsort(instance, kind="stable")
        return gap[order] / NS_PER_S, np.searchsorted(instance[order], np.arange(instances + 1))

    def _first_joins(self, spans: NDArray[np.bool_]) -> tuple[Integers, NDArray[np.int64]]:
        """Return request and gap of spans that follow their request's first token."""
        request = self.span_request[spans]
        return request, self.round_end_ns[self.span_first[spans]] - self._records.first_token_ns[request]

    def _later_joins(self, spans: NDArray[np.bool_]) -> tuple[Integers, NDArray[np.int64]]:
        """Return request and gap of the spans and resumed tokens of requests that have several."""
        resumed = self._records.measured[self.resumed_request]
        request = _concatenate([self.span_request[spans], self.resumed_request[resumed]])
        begin = _concatenate([self.round_end_ns[self.span_first[spans]], self.resumed_ns[resumed]])
        end = _concatenate([self.round_end_ns[self.span_last[spans]], self.resumed_ns[resumed]])
        order = np.lexsort((begin, request))
        request, begin, end = request[order], begin[order], end[order]
        before = self._records.first_token_ns[request]
        same = np.flatnonzero(request[1:] == request[:-1]) + 1
        before[same] = end[same - 1]
        return request, begin - before


def _round_ends(log: InstanceLog) -> Integers:
    """Return when the rounds of one instance ended, lane by lane."""
    rounds = column(log.decoded) > 0
    ends = column(log.end_ns)[rounds]
    return ends[np.argsort(column(log.lane)[rounds], kind="stable")] if log.lane else ends


def _span_rounds(log: InstanceLog) -> Integers:
    """Return the first round of each span, counted over the rounds of all lanes."""
    if not log.lane:
        return column(log.span_round)
    lanes = column(log.lane)[column(log.decoded) > 0]
    rounds_before = np.searchsorted(np.sort(lanes), np.arange(lanes.max(initial=0) + 1))
    return column(log.span_round) + rounds_before[column(log.span_lane)]


def _concatenate(columns: list[Integers]) -> NDArray[np.int64]:
    """Return the columns one after another; an empty one for none."""
    return np.concatenate([np.empty(0, np.int64), *columns])
