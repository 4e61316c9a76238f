"""The steps of an instance as columns, recovered from its log: batches, contexts, and whose tokens they were.

Decodes are exact: a span says in which rounds a request got its tokens, so a round's context is a sum over spans.
Prompts are laid end to end in the order of their admission over the prompt tokens of the steps: exact where prompts are
computed in that order and nobody is preempted, near it otherwise, and complete in any case.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import SimulationOutcome
from servetwin.engine.base import InstanceLog
from servetwin.step.work_columns import StepColumns

_LEAST_TOKENS = 1e-6
"""Less of a prompt than this in a step is rounding."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Spans:
    """Requests' stays in the batch: one token in each of the rounds from ``first`` to before ``end``.

    ``context``: tokens whose KV is there before the first round. ``rounds``: the step of each round, lane by lane.
    """

    request: Integers
    first: Integers
    end: Integers
    context: Floats
    rounds: Integers


@dataclass(frozen=True, slots=True)
class Chunks:
    """Parts of prompts: ``tokens`` of ``request`` in ``step``, after ``context`` tokens."""

    request: Integers
    step: Integers
    tokens: Floats
    context: Floats


@dataclass(frozen=True, slots=True)
class InstanceSteps:
    """One instance's steps, in the order of its log."""

    start_ns: Integers
    end_ns: Integers
    columns: StepColumns
    spans: Spans
    chunks: Chunks

    @property
    def seconds(self) -> Floats:
        """How long each step took."""
        return (self.end_ns - self.start_ns) / 1e9


def steps_of(outcome: SimulationOutcome, number: int, rows: Integers, *, prompts: bool = False) -> InstanceSteps:
    """Return the steps of one instance.

    Parameters
    ----------
    number
        Its place in the outcome.
    rows
        The requests whose prompt or output it computed, ascending.
    prompts
        Whether the decodes' prompts are wanted.
    """
    log = outcome.logs[number]
    decoded = np.asarray(log.decoded, dtype=np.float64)
    tokens = np.asarray(log.tokens, dtype=np.float64)
    spans = _spans(outcome, log, decoded)
    chunks = _chunks(outcome, number, rows, np.maximum(tokens - decoded, 0.0))
    steps = len(decoded)
    sums = [
        np.bincount(chunks.step, weights, minlength=steps).astype(np.float64)
        for weights in (
            np.ones(len(chunks.step)),
            chunks.tokens,
            chunks.context,
            chunks.tokens * chunks.context + chunks.tokens * (chunks.tokens + 1) / 2,
        )
    ]
    columns = StepColumns(decoded, _decode_kv(spans, steps), *sums)
    if prompts:
        lengths = np.asarray(outcome.workload.prompt_tokens, dtype=np.float64)[spans.request]
        columns = replace(columns, decode_prompt_tokens=_of_rounds(spans, lengths, steps))
    starts, ends = (np.asarray(values, dtype=np.int64) for values in (log.start_ns, log.end_ns))
    return InstanceSteps(starts, ends, columns, spans, chunks)


def _spans(outcome: SimulationOutcome, log: InstanceLog, decoded: Floats) -> Spans:
    rounds = np.flatnonzero(decoded > 0)
    first = np.asarray(log.span_round, dtype=np.int64)
    if log.lane:
        lanes = np.asarray(log.lane)[rounds]
        rounds = rounds[np.argsort(lanes, kind="stable")]
        before = np.searchsorted(np.sort(lanes), np.arange(lanes.max(initial=0) + 1))
        first = first + before[np.asarray(log.span_lane, dtype=np.int64)]
    request = np.asarray(log.span_request, dtype=np.int64)
    length = np.asarray(log.span_tokens, dtype=np.int64)
    context = outcome.workload.prompt_tokens[request] + _tokens_before(request, first, length)
    return Spans(request, first, first + length, context.astype(np.float64), rounds)


def _tokens_before(request: Integers, first: Integers, length: Integers) -> Integers:
    """Return how many tokens, less one, a request had before each span: those of its spans, and one at each resume."""
    order = np.lexsort((first, request))
    ordered, lengths = request[order], length[order]
    done = np.cumsum(lengths + 1) - (lengths + 1)
    begins = np.flatnonzero(np.diff(ordered, prepend=-1))
    counts = np.diff(np.append(begins, len(ordered)))
    before = np.empty(len(request), dtype=np.int64)
    before[order] = done - np.repeat(done[begins], counts)
    return before


def _decode_kv(spans: Spans, steps: int) -> Floats:
    """Return the sum of the decodes' contexts in each step."""
    rounds = np.zeros(steps)
    rounds[spans.rounds] = np.arange(len(spans.rounds))
    count = _of_rounds(spans, np.ones(len(spans.first)), steps)
    return np.asarray(np.maximum(_of_rounds(spans, spans.context - spans.first, steps) + count * rounds, 0.0))


def _of_rounds(spans: Spans, values: Floats, steps: int) -> Floats:
    """Return the sum of the decodes' values, one per span, in each step."""
    rounds = len(spans.rounds)
    edges = np.concatenate([spans.first, spans.end])
    sums = np.zeros(steps)
    sums[spans.rounds] = np.cumsum(np.bincount(edges, np.concatenate([values, -values]), minlength=rounds + 1))[:rounds]
    return sums


def _chunks(outcome: SimulationOutcome, number: int, rows: Integers, tokens: Floats) -> Chunks:
    """Lay the prompts end to end over the prompt tokens of the steps."""
    rows, cached, wanted = _prompts(outcome, number, rows)
    of_steps = np.cumsum(tokens)
    if not len(rows) or not len(tokens) or of_steps[-1] <= 0:
        nothing = np.zeros(0, dtype=np.int64)
        return Chunks(nothing, nothing, np.zeros(0), np.zeros(0))
    of_prompts = np.cumsum(wanted if wanted.any() else np.ones(len(rows)))
    of_prompts *= of_steps[-1] / of_prompts[-1]
    of_prompts[-1] = of_steps[-1]
    edges = np.unique(np.concatenate([[0.0], of_steps, of_prompts]))
    edges = edges[np.append(np.diff(edges) > _LEAST_TOKENS, True)]
    edges[0] = 0.0
    middle = (edges[1:] + edges[:-1]) / 2
    prompt = np.searchsorted(of_prompts, middle)
    begin = np.concatenate([[0.0], of_prompts])[prompt]
    step = np.searchsorted(of_steps, middle)
    return Chunks(rows[prompt], step, np.diff(edges), cached[prompt] + edges[:-1] - begin)


def _prompts(outcome: SimulationOutcome, number: int, rows: Integers) -> tuple[Integers, Floats, Floats]:
    """Return whose prompts an instance computed, in the order of admission: cached tokens, and computed ones.

    An instance that took over from another one, which computed the prompt, computes again what preemptions lose.
    """
    log = outcome.requests
    took_over = (np.asarray(log.prefill_instance)[rows] >= 0) & (np.asarray(log.prefill_instance)[rows] != number)
    started = np.where(took_over, np.asarray(log.decode_admitted_ns)[rows], np.asarray(log.first_scheduled_ns)[rows])
    order = np.argsort(started, kind="stable")
    order = order[started[order] >= 0]
    rows, took_over = rows[order], took_over[order]
    cached = np.maximum(np.asarray(log.cached_tokens, dtype=np.float64)[rows], 0.0)
    handed_on = np.asarray(log.prefill_instance)[rows] == number
    again = np.where(handed_on, 0, np.asarray(log.recomputed_tokens)[rows])
    first = np.where(took_over, 0.0, outcome.workload.prompt_tokens[rows] - cached)
    return rows, np.where(took_over, 0.0, cached), np.maximum(first + again, 0.0)
