"""The contracts of one serving instance: settings, scheduler, ordering, and what it writes down."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from servetwin.core.registry import Registry
from servetwin.engine.dynamic_chunking import DynamicChunking

NOT_YET = -1
"""A time or number that has not happened (an unfinished request's ``finish_ns``)."""

PENDING, COMPLETED, REJECTED = 0, 1, 2
"""States of a request; only the last two are terminal. A run that was cut short leaves ``PENDING`` ones."""

STATE_NAMES = ("unfinished", "completed", "rejected")


FirstToken: TypeAlias = Literal["prefill", "decode"]
"""Where a request's first token is made, if one instance computes its prompt and another one its output."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """One serving instance's limits, by vLLM's names.

    Attributes
    ----------
    num_blocks
        KV blocks that requests can use (vLLM's ``num_gpu_blocks`` without its null block).
    max_model_len
        Longest prompt + output; longer requests are rejected.
    idle_poll_ns
        While no instance computes, arrivals are noticed only at multiples of this after the last one fell idle (LSS:
        1 ms); 0: at once.
    async_scheduling
        A step is planned when the one before it starts: a request that comes later enters one step later.
    overlap_chunks
        In a pipeline, a prompt's next chunk may be scheduled while the one before is in flight.
    dynamic_chunking
        How the token budget of a step shrinks with the context of the first prompt that is not scheduled to its end;
        None: it does not.
    ready_ns
        Nothing is computed before this time (the model is being loaded); requests wait.
    """

    num_blocks: int
    max_model_len: int
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    block_size: int = 16
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    scheduler_reserve_full_isl: bool = True
    enable_prefix_caching: bool = True
    idle_poll_ns: int = 0
    async_scheduling: bool = False
    overlap_chunks: bool = True
    dynamic_chunking: DynamicChunking | None = None
    ready_ns: int = 0


@dataclass(slots=True)
class SchedulerView:
    """What a scheduler sees when it plans a step: never a request's true output length.

    An instance has one view and brings it up to date before each step; it is not to be kept.
    """

    num_waiting: int
    num_decoding: int
    num_prefilling: int
    """Running requests whose prompt is not computed to its end."""
    batch_started: bool
    """Whether a decode round has run since the instance was last empty (a static batch is closed then)."""
    enable_chunked_prefill: bool


@dataclass(frozen=True, slots=True)
class StepPolicy:
    """A scheduler's decision for one step.

    Attributes
    ----------
    admit
        Whether waiting requests may enter.
    chunk
        Whether a prompt may be split over steps; else it enters only when it fits the remaining budget whole.
    decode
        ``"first"``: running requests first, in order, then waiting ones beside them (vLLM V1).
        ``"if_no_prefill"``: prompts first; decodes advance only in a step that computes no prompt (vLLM V0).
    """

    admit: bool
    chunk: bool
    decode: Literal["first", "if_no_prefill"] = "first"


class Scheduler(Protocol):
    """Decides, step by step, who may run.

    A scheduler that looks at nothing in the view that changes says so with an attribute ``reads = frozenset()``: it is
    asked once.
    """

    def plan(self, view: SchedulerView) -> StepPolicy:
        """Return the policy of the next step. Pure: equal views get equal answers, whenever they are asked for.

        The engine runs many steps on one answer while the view stays the same and nothing can be admitted.
        """
        ...


class Ordering(Protocol):
    """The order of the waiting queue, and who is preempted first."""

    preempts_by_key: bool
    """False: the victim is the last of the running list. True: the running one with the greatest key (vLLM)."""

    def key(self, arrival_ns: int, priority: int, prompt_tokens: int) -> tuple[int, ...]:
        """Return the key by which waiting requests are served, smallest first (the row number breaks ties)."""
        ...


schedulers: Registry[Scheduler] = Registry("scheduler")
orderings: Registry[Ordering] = Registry("scheduling policy")


def _longs() -> array[int]:
    return array("q")


def _ints() -> array[int]:
    return array("i")


@dataclass(slots=True)
class InstanceLog:
    """What one instance writes down, as columns.

    Steps, one row each: ``start_ns, end_ns, decoded`` (decoding requests that got a token at ``end_ns``), ``tokens``
    (computed in it), ``kv_used_blocks`` and ``kv_cached_blocks`` (after the step was scheduled; used: referenced,
    cached: reusable and unreferenced).

    Rounds: the steps with ``decoded > 0``, counted from 0. All requests of a cohort advance by one token in a round.
    A pipeline has a cohort in each of its lanes: ``lane`` says for each step whose it was, rounds are counted lane by
    lane, and ``span_lane`` says for each span whose rounds are meant. Both are empty where there is only one lane.

    Idle: ``idle_ns, idle_cached_blocks, idle_used_blocks``: when the instance ran out of work, what its cache holds
    then, and the blocks of prompts that are on their way from here or to here.

    Spans, one row each: request ``span_request`` got one token in each of ``span_tokens`` consecutive rounds from
    ``span_round`` on. Tokens at the end of a prefill (the first token, and the next token after a preemption) are in no
    span: the first is the request's ``first_token_ns``; others are rows ``resumed_request, resumed_ns``.

    Queue: ``preempted_ns`` and ``readmitted_ns``: when a running request went back to waiting, and when one came back;
    ``preempted_request`` and ``readmitted_request``: which.

    Recalls: at ``recall_ns`` request ``recall_request`` was let in with ``recall_tokens`` tokens that tier number
    ``recall_tier`` had; their KV was there at ``recalled_ns``.
    """

    start_ns: array[int] = field(default_factory=_longs)
    end_ns: array[int] = field(default_factory=_longs)
    decoded: array[int] = field(default_factory=_ints)
    tokens: array[int] = field(default_factory=_ints)
    kv_used_blocks: array[int] = field(default_factory=_ints)
    kv_cached_blocks: array[int] = field(default_factory=_ints)
    idle_ns: array[int] = field(default_factory=_longs)
    idle_cached_blocks: array[int] = field(default_factory=_ints)
    idle_used_blocks: array[int] = field(default_factory=_ints)
    span_request: array[int] = field(default_factory=_ints)
    span_round: array[int] = field(default_factory=_ints)
    span_tokens: array[int] = field(default_factory=_ints)
    lane: array[int] = field(default_factory=_ints)
    span_lane: array[int] = field(default_factory=_ints)
    resumed_request: array[int] = field(default_factory=_ints)
    resumed_ns: array[int] = field(default_factory=_longs)
    preempted_ns: array[int] = field(default_factory=_longs)
    readmitted_ns: array[int] = field(default_factory=_longs)
    preempted_request: array[int] = field(default_factory=_ints)
    readmitted_request: array[int] = field(default_factory=_ints)
    recall_request: array[int] = field(default_factory=_ints)
    recall_tier: array[int] = field(default_factory=_ints)
    recall_tokens: array[int] = field(default_factory=_ints)
    recall_ns: array[int] = field(default_factory=_longs)
    recalled_ns: array[int] = field(default_factory=_longs)


@dataclass(slots=True)
class RequestLog:
    """What happened to each request, as columns of length n, filled by the cluster and the instances.

    ``cached_tokens``: prompt tokens found in the prefix cache at the first admission (``NOT_YET`` before it).
    ``recomputed_tokens``: tokens whose KV was there, was lost by preemption and was computed again.
    ``reasons``: why, for each rejected row.

    Where prefill and decode are apart: ``prefill_instance`` computed the prompt until ``handed_over_ns``; from
    ``transfer_ns`` to ``landed_ns`` its KV was on its way to ``instance``, which let it in at ``decode_admitted_ns``.
    All ``NOT_YET`` for a request that stayed where it was.
    """

    arrival_ns: array[int]
    instance: array[int]
    state: array[int]
    first_scheduled_ns: array[int]
    first_token_ns: array[int]
    finish_ns: array[int]
    cached_tokens: array[int]
    recomputed_tokens: array[int]
    preemptions: array[int]
    prefill_instance: array[int]
    handed_over_ns: array[int]
    transfer_ns: array[int]
    landed_ns: array[int]
    decode_admitted_ns: array[int]
    reasons: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of_size(cls, n: int) -> RequestLog:
        """Return a log of ``n`` rows in which nothing has happened."""

        def column(code: str, value: int) -> array[int]:
            return array(code, [value]) * n

        return cls(
            arrival_ns=column("q", NOT_YET),
            instance=column("i", NOT_YET),
            state=column("b", PENDING),
            first_scheduled_ns=column("q", NOT_YET),
            first_token_ns=column("q", NOT_YET),
            finish_ns=column("q", NOT_YET),
            cached_tokens=column("i", NOT_YET),
            recomputed_tokens=column("i", 0),
            preemptions=column("i", 0),
            prefill_instance=column("i", NOT_YET),
            handed_over_ns=column("q", NOT_YET),
            transfer_ns=column("q", NOT_YET),
            landed_ns=column("q", NOT_YET),
            decode_admitted_ns=column("q", NOT_YET),
        )
