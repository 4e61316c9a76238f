"""What limits a deployment, told from what happened: one word and one plain sentence."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from servetwin.engine.base import EngineSettings
from servetwin.metrics.limits_between import WAITING_MATTERS, Limit, in_percent, in_time, what_limits_between
from servetwin.metrics.limits_encoders import what_limits_encoding
from servetwin.metrics.records import EVERY_ROW, Integers, Records, Scope, busy_starts, column, latencies_s
from servetwin.step.base import StepModel, StepShape
from servetwin.step.plans.base import ExecutionPlan

_SAMPLES = 2_000
"""Steps of an instance that are looked at, evenly spread: enough for shares to a percent."""

_PREEMPTIONS_MATTER = 0.01
"""Preemptions per completed request from which on KV blocks are said to limit it."""

_SEQUENCES, _BUDGET, _BLOCKS, _SCHEDULING = "max_num_seqs", "max_num_batched_tokens", "kv_blocks", "scheduling"


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
    the mean end-to-end time, the time of a step is the limit, or there is little load. Where prefill and decode are
    apart, the way between them may be the limit, or the room on the decode side; where there are encoders, these or the
    way of embeddings.
    """
    completed = int(records.completed.sum())
    if not completed:
        return Limit("nothing_completed", "No request completed, so nothing can be said of what limits the deployment.")
    load = _load(records)
    causes = _causes(records)
    encoding = what_limits_encoding(records, load.waiting_share)
    if encoding:
        return encoding
    if load.preemptions >= _PREEMPTIONS_MATTER * completed:
        return _limited(records, _BLOCKS, load)
    between = what_limits_between(records, load.waiting_share, held=bool(causes) and _is_held(records, causes))
    if between:
        return between
    if load.waiting_share >= WAITING_MATTERS and causes:
        return _limited(records, causes.most_common(1)[0][0], load)
    return _hardly_waiting(records, load)


def _load(records: Records) -> _Load:
    """Return how full the deployment was; the number running by Little's law."""
    done = np.flatnonzero(records.completed)
    duration_ns = max(records.stop_ns - records.start_ns, 1)
    waited = (records.first_scheduled_ns[done] - records.joined_ns[done]).sum(dtype=np.float64) + _waited_again(records)
    elapsed = (records.finish_ns[done] - records.arrival_ns[done]).sum(dtype=np.float64)
    decoding = [log for log, spec in zip(records.logs, records.instances, strict=True) if spec.role != "prefill"]
    busy = sum(int((column(log.end_ns) - busy_starts(log)).sum()) for log in decoding)
    peaks = [
        column(log.kv_used_blocks).max(initial=0) / spec.settings.num_blocks
        for log, spec in zip(records.logs, records.instances, strict=True)
    ]
    return _Load(
        waiting_share=float(waited / elapsed),
        waiting_s=float(waited / len(done)) / 1e9,
        running=float((elapsed - waited - _elsewhere_ns(records, done)) / duration_ns),
        slots=sum(spec.settings.max_num_seqs for spec in records.instances if spec.role != "prefill"),
        busy=busy / duration_ns / len(decoding),
        peak_kv=float(max(peaks)),
        preemptions=int(records.preemptions.sum()),
        recomputed_tokens=int(records.recomputed_tokens.sum()),
    )


def _elsewhere_ns(records: Records, done: NDArray[np.int64]) -> float:
    """Return the time that requests spent before they ran on the instance that decoded them, queueing aside; summed."""
    encoded = float((records.joined_ns[done] - records.arrival_ns[done]).sum(dtype=np.float64))
    if not records.apart:
        return encoded
    moved = done[records.handed_over[done]]
    return encoded + float(
        (records.decode_admitted_ns[moved] - records.first_scheduled_ns[moved]).sum(dtype=np.float64)
    )


def _is_held(records: Records, causes: Counter[str]) -> bool:
    """Return whether prompts wait for blocks that computed prompts hold until their KV has gone."""
    if not records.apart or causes.most_common(1)[0][0] != _BLOCKS:
        return False
    moved = np.flatnonzero(records.completed & records.handed_over)
    held = (records.landed_ns[moved] - records.handed_over_ns[moved]).sum(dtype=np.float64)
    computed = (records.handed_over_ns[moved] - records.first_scheduled_ns[moved]).sum(dtype=np.float64)
    return bool(held > computed)


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
    prompts, outputs, taken = scope.prompts, scope.outputs, scope.taken
    admitted = _count(records.first_scheduled_ns[prompts], start)
    put_back = _count(column(log.preempted_ns), start) - _count(column(log.readmitted_ns), start)
    left = _count(records.finish_ns[outputs], start) + _count(records.handed_over_ns[prompts], start)
    running = admitted + _count(records.decode_admitted_ns[taken], start) - put_back - left
    waiting = _count(records.joined_ns[prompts][records.queued[prompts]], start) - admitted + put_back
    weight = waiting * (column(log.end_ns)[steps] - start)
    kinds = _kind_of_step(settings, running, tokens, used)
    return Counter({kind: float(weight[mask].sum()) for kind, mask in kinds.items() if weight[mask].any()})


def _kind_of_step(
    settings: EngineSettings, running: Integers, tokens: Integers, used: Integers
) -> dict[str, NDArray[np.bool_]]:
    """Return in which steps each limit kept requests from being admitted; vLLM asks in this order."""
    full = np.greater_equal(running, settings.max_num_seqs)
    # a prompt that may not be split does not enter a budget that is only partly spent; dynamic chunks leave a quarter
    part = 0.5 if not settings.enable_chunked_prefill else 0.25 if settings.dynamic_chunking else 1.0
    enough = settings.max_num_batched_tokens * part
    spent = np.greater_equal(tokens, enough)
    crowded = np.greater_equal(used, 0.5 * settings.num_blocks)
    return {
        _SEQUENCES: full,
        _BUDGET: ~full & spent,
        _BLOCKS: ~full & ~spent & crowded,
        _SCHEDULING: ~full & ~spent & ~crowded,
    }


def _count(events_ns: Integers, times_ns: Integers) -> Integers:
    """Return how many events have happened at each time; negative times: never."""
    return np.searchsorted(np.sort(events_ns[events_ns >= 0]), times_ns, side="right")


def _limited(records: Records, kind: str, load: _Load) -> Limit:
    """Return the limit of a deployment in which requests wait."""
    waiting = f"waiting takes {in_time(load.waiting_s)}, {load.waiting_share:.0%} of the mean end-to-end time"
    peak = f"KV blocks are used to {in_percent(load.peak_kv)} at most"
    setting = _setting(records, kind)
    sentences = {
        _SEQUENCES: f"Requests wait because max_num_seqs ({setting}) requests already run: {waiting}; {peak}.",
        _BUDGET: f"Prompts wait for the token budget of a step, max_num_batched_tokens ({setting}): {waiting}; {peak}.",
        _BLOCKS: f"KV blocks run out ({in_percent(load.peak_kv)} used at the peak): {waiting}, and "
        f"{load.preemptions:,} preemptions made {load.recomputed_tokens:,} tokens be computed again.",
        _SCHEDULING: f"Requests wait because the scheduler lets none in beside the running batch: {waiting}; {peak}.",
    }
    return Limit(kind, sentences[kind])


def _setting(records: Records, name: str) -> str:
    """Return the value of an engine setting, or the values if instances differ."""
    values = {getattr(spec.settings, name, None) for spec in records.instances}
    return ", ".join(f"{value:,}" for value in sorted(value for value in values if value is not None))


def _hardly_waiting(records: Records, load: _Load) -> Limit:
    """Return the limit of a deployment without a queue: the time of a step, or nothing but the load."""
    hardly = f"requests hardly wait ({in_time(load.waiting_s)} on average)"
    slots = f"{load.running:.1f} of {load.slots:,} sequence slots are in use"
    blocks = f"at most {in_percent(load.peak_kv)} of an instance's KV blocks are referenced"
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
    """Return what takes the time of a typical step of the first instance that decodes, if its step model tells."""
    first = next(number for number, spec in enumerate(records.instances) if spec.role != "prefill")
    spec, log = records.instances[first], records.logs[first]
    if not log.start_ns:
        return ""
    decoding = sum(spec.role != "prefill" for spec in records.instances)
    decodes = max(1, round(load.running / decoding / max(load.busy, 1e-9)))
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
