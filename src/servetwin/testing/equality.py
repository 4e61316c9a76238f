"""Whether the fast engine's outcome equals the stepwise engine's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from servetwin.cluster.base import SimulationOutcome
from servetwin.engine.base import STATE_NAMES, InstanceLog
from servetwin.testing.stepwise import StepwiseOutcome
from servetwin.testing.stepwise_instance import StepwiseInstance
from servetwin.testing.stepwise_kv_cache import StepwiseRequest


def differences(fast: SimulationOutcome, slow: StepwiseOutcome) -> list[str]:
    """Return what differs, in words; nothing when the two are equal to the nanosecond."""
    found: list[str] = []
    tokens = token_times(fast)
    log = fast.requests
    for request in slow.requests:
        row = request.row
        pairs: dict[str, tuple[object, object]] = {
            "state": (STATE_NAMES[log.state[row]], request.state),
            "reason": (log.reasons.get(row, ""), request.reason),
            "instance": (log.instance[row], request.instance),
            "arrival": (log.arrival_ns[row], request.arrival_ns),
            "first scheduled": (log.first_scheduled_ns[row], request.first_scheduled_ns),
            "token times": (tokens[row], request.token_times_ns),
            **_encoding(fast, request),
            "finish": (log.finish_ns[row], request.finish_ns),
            "cached": (log.cached_tokens[row], request.cached_tokens),
            "recomputed": (log.recomputed_tokens[row], request.recomputed_tokens),
            "preemptions": (log.preemptions[row], request.preemptions),
            "prefill instance": (log.prefill_instance[row], request.prefill_instance),
            "handed over": (log.handed_over_ns[row], request.handed_over_ns),
            "transfer": (log.transfer_ns[row], request.transfer_ns),
            "landed": (log.landed_ns[row], request.landed_ns),
            "admitted to decode": (log.decode_admitted_ns[row], request.decode_admitted_ns),
        }
        found += [f"request {row}: {name}: fast {a}, stepwise {b}" for name, (a, b) in pairs.items() if a != b]
    if fast.end_ns != slow.end_ns:
        found.append(f"end: fast {fast.end_ns}, stepwise {slow.end_ns}")
    found += _tier_differences(fast, slow)
    for number, (columns, instance) in enumerate(zip(fast.logs, slow.instances, strict=True)):
        found += [f"instance {number}: {line}" for line in _instance_differences(columns, instance)]
    return found


def _encoding(fast: SimulationOutcome, request: StepwiseRequest) -> dict[str, tuple[object, object]]:
    """Return what both engines say of a request's encoding."""
    if fast.encoding is None:
        return {}
    log, row = fast.encoding, request.row
    return {
        "encoder": (log.worker[row], request.encoder),
        "encoding began": (log.start_ns[row], request.encode_ns),
        "encoding ended": (log.end_ns[row], request.encoded_ns),
        "embeddings landed": (log.landed_ns[row], request.embedded_ns),
    }


def _tier_differences(fast: SimulationOutcome, slow: StepwiseOutcome) -> list[str]:
    """Return whose tiers' logs differ."""
    found = []
    for record in fast.tiers:
        tiers = slow.instances[record.instances[0]].tiers
        assert tiers is not None
        tiers.common.arrive(slow.end_ns)
        other = tiers.common.stores[record.tier].log
        for name in record.log.columns:
            a, b = list(getattr(record.log, name)), list(getattr(other, name))
            if a != b:
                found.append(
                    f"tier {record.tier.name!r} of instances {record.instances}: {name}: fast {a}, stepwise {b}"
                )
    return found


def token_times(outcome: SimulationOutcome) -> list[list[int]]:
    """Return every token's time of every request, from the columns, one by one."""
    times: list[list[int]] = [[t] if t >= 0 else [] for t in outcome.requests.first_token_ns]
    for log in outcome.logs:
        rounds = _rounds(log)
        span_lanes = log.span_lane or [0] * len(log.span_request)
        for row, lane, first, count in zip(log.span_request, span_lanes, log.span_round, log.span_tokens, strict=True):
            times[row] += rounds[lane][first : first + count]
        for row, time_ns in zip(log.resumed_request, log.resumed_ns, strict=True):
            times[row].append(time_ns)
    return [sorted(t) for t in times]


def _rounds(log: InstanceLog) -> dict[int, list[int]]:
    """Return the ends of each lane's steps that decoded."""
    rounds: dict[int, list[int]] = {}
    lanes = log.lane or [0] * len(log.end_ns)
    for lane, end_ns, decoded in zip(lanes, log.end_ns, log.decoded, strict=True):
        if decoded:
            rounds.setdefault(lane, []).append(end_ns)
    return rounds


def _instance_differences(log: InstanceLog, slow: StepwiseInstance) -> list[str]:
    found = []
    fast_steps = list(
        zip(log.start_ns, log.end_ns, log.decoded, log.tokens, log.kv_used_blocks, log.kv_cached_blocks, strict=True)
    )
    if fast_steps != slow.steps:
        i = next((i for i, (a, b) in enumerate(zip(fast_steps, slow.steps, strict=False)) if a != b), -1)
        found.append(
            f"{len(fast_steps)} steps against {len(slow.steps)}, first difference at {i}: "
            f"fast {fast_steps[i : i + 1]}, stepwise {slow.steps[i : i + 1]}"
        )
    pairs = {
        "preempted": (list(zip(log.preempted_ns, log.preempted_request, strict=True)), slow.preemptions),
        "readmitted": (list(zip(log.readmitted_ns, log.readmitted_request, strict=True)), slow.readmissions),
        "recalled": (
            list(
                zip(
                    log.recall_request,
                    log.recall_tier,
                    log.recall_tokens,
                    log.recall_ns,
                    log.recalled_ns,
                    strict=True,
                )
            ),
            slow.recalled,
        ),
        "fell idle": (list(zip(log.idle_ns, log.idle_cached_blocks, log.idle_used_blocks, strict=True)), slow.idle),
    }
    found += [
        f"{name}: fast {fast}, stepwise {stepwise}" for name, (fast, stepwise) in pairs.items() if fast != stepwise
    ]
    return found


def gauge(times_ns: Sequence[int], slow: StepwiseInstance, column: int) -> list[int]:
    """Return one of the stepwise gauges (1 running, 2 waiting, 3 used, 4 cached) just after all events at each time."""
    moments = np.array([g[0] for g in slow.gauges], dtype=np.int64)
    values = [0] + [g[column] for g in slow.gauges]
    return [values[int(i)] for i in np.searchsorted(moments, times_ns, side="right")]
