"""What limits a deployment, told from what happened: one word and one plain sentence."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from servetwin.engine.base import EngineSettings
from servetwin.metrics.encoding import encoder_columns, encoder_summary
from servetwin.metrics.records import EVERY_ROW, Integers, Records, Scope, busy_starts, column, latencies_s
from servetwin.step.base import StepModel, StepShape
from servetwin.step.plans.base import ExecutionPlan

_SAMPLES = 2_000
"""Steps of an instance that are looked at, evenly spread: enough for shares to a percent."""

_WAITING_MATTERS = 0.05
"""Share of the mean end-to-end time from which on waiting is said to limit a deployment."""

_PREEMPTIONS_MATTER = 0.01
"""Preemptions per completed request from which on KV blocks are said to limit it."""

_SEQUENCES, _BUDGET, _BLOCKS, _SCHEDULING = "max_num_seqs", "max_num_batched_tokens", "kv_blocks", "scheduling"


class Limit(NamedTuple):
    """What limits a deployment.

    Attributes
    ----------
    kind
        ``"max_num_seqs"``, ``"max_num_batched_tokens"``, ``"kv_blocks"``, ``"scheduling"``, ``"encoders"``,
        ``"step_time"``, ``"load"`` (there is little) or ``"nothing_completed"``.
    sentence
        The same for a reader, with the numbers.
    """

    kind: str
    sentence: str


class _Load(NamedTuple):
    """How full a deployment was, on average over the run, and how long requests waited."""

    waiting_share: float
    waiting_s: float
    running: float
    slots: int
    busy: float
    peak_kv: float
    preemptions: int
    recomputed_tokens: int


def what_limits(records: Records) -> Limit:
    """Return what limits the deployment.

    A request waits because ``max_num_seqs`` requests run, because the step's token budget is spent, or because no KV
    blocks are free; the state of each instance at steps with a queue tells which. Where waiting is less than 5 % of
    the mean end-to-end time, the time of a step is the limit, or there is little load.
    """
    completed = int(records.completed.sum())
    if not completed:
        return Limit("nothing_completed", "No request completed, so nothing can be said of what limits the deployment.")
    load = _load(records)
    causes = _causes(records)
    encoding_s, encoding_share = _encoder_queue(records)
    if encoding_share >= max(_WAITING_MATTERS, load.waiting_share):
        busy = encoder_summary(records)["encoders"]["busy_fraction"]
        return Limit(
            "encoders",
            f"Requests wait for the encoders, which are busy {_percent(busy)} of the time: waiting for them takes "
            f"{_time(encoding_s)}, {encoding_share:.0%} of the mean end-to-end time.",
        )
    if load.preemptions >= _PREEMPTIONS_MATTER * completed:
        return _limited(records, _BLOCKS, load)
    if load.waiting_share >= _WAITING_MATTERS and causes:
        return _limited(records, causes.most_common(1)[0][0], load)
    return _hardly_waiting(records, load)


def _encoder_queue(records: Records) -> tuple[float, float]:
    """Return how long completed requests waited for encoders, on average, and the share of their end-to-end time."""
    if records.outcome.encoding is None:
        return 0.0, 0.0
    waited_s = np.nan_to_num(encoder_columns(records)["encoder_queue_s"][records.completed])
    elapsed_ns = (records.finish_ns - records.arrival_ns)[records.completed]
    return float(waited_s.mean()), float(waited_s.sum() * 1e9 / max(1, int(elapsed_ns.sum())))


def _load(records: Records) -> _Load:
    """Return how full the deployment was; the number running by Little's law."""
    done = np.flatnonzero(records.completed)
    duration_ns = max(records.stop_ns - records.start_ns, 1)
    waited = (records.first_scheduled_ns[done] - records.came_ns[done]).sum(dtype=np.float64) + _waited_again(records)
    elapsed = (records.finish_ns[done] - records.arrival_ns[done]).sum(dtype=np.float64)
    busy = sum(int((column(log.end_ns) - busy_starts(log)).sum()) for log in records.logs)
    peaks = [
        column(log.kv_used_blocks).max(initial=0) / spec.settings.num_blocks
        for log, spec in zip(records.logs, records.instances, strict=True)
    ]
    return _Load(
        waiting_share=float(waited / elapsed),
        waiting_s=float(waited / len(done)) / 1e9,
        running=float((elapsed - waited) / duration_ns),
        slots=sum(spec.settings.max_num_seqs for spec in records.instances),
        busy=busy / duration_ns / len(records.instances),
        peak_kv=float(max(peaks)),
        preemptions=int(records.preemptions.sum()),
        recomputed_tokens=int(records.recomputed_tokens.sum()),
    )


def _waited_again(records: Records) -> float:
    """Return the time that preempted requests waited to be admitted again, summed, in nanoseconds."""
    total = 0
    for log in records.logs:
        back = column(log.readmitted_ns)
        total += int((back - column(log.preempted_ns)[: len(back)]).sum())
    return float(total)


def _causes(records: Records) -> Counter[str]:
    """Return for what requests waited: waiting time by kind of limit, from a sample of steps with a queue."""
    causes: Counter[str] = Counter()
    for scope in records.scopes:
        causes += _causes_at(records, scope)
    return causes


def _causes_at(records: Records, scope: Scope) -> Counter[str]:
    """Return waiting time by kind of limit at one instance."""
    log, settings = records.logs[scope.instances.start], records.instances[scope.instances.start].settings
    steps = np.unique(np.linspace(0, len(log.start_ns) - 1, _SAMPLES).astype(np.int64)) if log.start_ns else slice(0)
    start, tokens, used = column(log.start_ns)[steps], column(log.tokens)[steps], column(log.kv_used_blocks)[steps]
    rows = scope.rows
    admitted = _count(records.first_scheduled_ns[rows][records.admitted[rows]], start)
    put_back = _count(column(log.preempted_ns), start) - _count(column(log.readmitted_ns), start)
    running = admitted - put_back - _count(records.finish_ns[rows][records.completed[rows]], start)
    waiting = _count(records.came_ns[rows][records.queued[rows]], start) - admitted + put_back
    weight = waiting * (column(log.end_ns)[steps] - start)
    kinds = _kind_of_step(settings, running, tokens, used)
    return Counter({kind: float(weight[mask].sum()) for kind, mask in kinds.items() if weight[mask].any()})


def _kind_of_step(
    settings: EngineSettings, running: Integers, tokens: Integers, used: Integers
) -> dict[str, NDArray[np.bool_]]:
    """Return in which steps each limit kept requests from being admitted; vLLM asks in this order."""
    full = np.greater_equal(running, settings.max_num_seqs)
    # a prompt that may not be split does not enter a budget that is only partly spent
    enough = settings.max_num_batched_tokens * (1.0 if settings.enable_chunked_prefill else 0.5)
    spent = np.greater_equal(tokens, enough)
    crowded = np.greater_equal(used, 0.5 * settings.num_blocks)
    return {
        _SEQUENCES: full,
        _BUDGET: ~full & spent,
        _BLOCKS: ~full & ~spent & crowded,
        _SCHEDULING: ~full & ~spent & ~crowded,
    }


def _count(events_ns: Integers, times_ns: Integers) -> Integers:
    """Return how many events have happened at each time."""
    return np.searchsorted(np.sort(events_ns), times_ns, side="right")


def _limited(records: Records, kind: str, load: _Load) -> Limit:
    """Return the limit of a deployment in which requests wait."""
    waiting = f"waiting takes {_time(load.waiting_s)}, {load.waiting_share:.0%} of the mean end-to-end time"
    peak = f"KV blocks are used to {_percent(load.peak_kv)} at most"
    setting = _setting(records, kind)
    sentences = {
        _SEQUENCES: f"Requests wait because max_num_seqs ({setting}) requests already run: {waiting}; {peak}.",
        _BUDGET: f"Prompts wait for the token budget of a step, max_num_batched_tokens ({setting}): {waiting}; {peak}.",
        _BLOCKS: f"KV blocks run out ({_percent(load.peak_kv)} used at the peak): {waiting}, and {load.preemptions:,} "
        f"preemptions made {load.recomputed_tokens:,} tokens be computed again.",
        _SCHEDULING: f"Requests wait because the scheduler lets none in beside the running batch: {waiting}; {peak}.",
    }
    return Limit(kind, sentences[kind])


def _setting(records: Records, name: str) -> str:
    """Return the value of an engine setting, or the values if instances differ."""
    values = {getattr(spec.settings, name, None) for spec in records.instances}
    return ", ".join(f"{value:,}" for value in sorted(value for value in values if value is not None))


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def _hardly_waiting(records: Records, load: _Load) -> Limit:
    """Return the limit of a deployment without a queue: the time of a step, or nothing but the load."""
    hardly = f"requests hardly wait ({_time(load.waiting_s)} on average)"
    slots = f"{load.running:.1f} of {load.slots:,} sequence slots are in use"
    blocks = f"at most {_percent(load.peak_kv)} of an instance's KV blocks are referenced"
    hint = _step_hint(records, load)
    if load.running > 0.5 * load.slots or load.peak_kv > 0.95 or _misses_objectives(records):
        return Limit("step_time", f"The time of a step sets the latency{hint}: {hardly}, {slots}, {blocks}.")
    return Limit("load", f"The deployment is under-loaded: {hardly}, {slots}, {blocks}; latency is step time{hint}.")


def _misses_objectives(records: Records) -> bool:
    """Return whether more than one in a hundred measured requests misses an objective."""
    seconds = latencies_s(records, records.rows_where(records.measured, EVERY_ROW))
    limits = records.options.slo.items()
    return any(np.count_nonzero(seconds[name] > limit) > 0.01 * len(seconds[name]) for name, limit in limits)


def _step_hint(records: Records, load: _Load) -> str:
    """Return what takes the time of a typical step of the first instance, in brackets, if its step model tells."""
    spec, log = records.instances[0], records.logs[0]
    if not log.start_ns:
        return ""
    decodes = max(1, round(load.running / len(records.instances) / max(load.busy, 1e-9)))
    kv_tokens = round(float(column(log.kv_used_blocks).mean()) * spec.settings.block_size)
    mean = kv_tokens // decodes
    return _bound_of(spec.timing, StepShape(decodes, kv_tokens, (), mean, mean))


def _bound_of(model: StepModel | ExecutionPlan, shape: StepShape) -> str:
    """Return what a step model says of a step's bound, or the largest part of its breakdown; empty if neither."""
    bound_by = getattr(model, "bound_by", None)
    if bound_by is not None:
        return f" (a typical step is bound by {bound_by(shape)})"
    try:
        parts = model.breakdown_ns(shape) if hasattr(model, "breakdown_ns") else {}
    except NotImplementedError:
        return ""
    total = sum(parts.values())
    if len(parts) < 2 or total <= 0:
        return ""
    name, value = max(parts.items(), key=lambda part: part[1])
    return f" ({name} is {value / total:.0%} of a typical step)"
