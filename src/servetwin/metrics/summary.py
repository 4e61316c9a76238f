"""The summary: what ``summary.json`` says of the cluster and of each instance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.core.units import NS_PER_S
from servetwin.engine.base import REJECTED, STATE_NAMES
from servetwin.metrics.breakdown import breakdown_ns
from servetwin.metrics.encoding import encoder_summary
from servetwin.metrics.records import Floats, Records, Rows, Scope, column, latencies_s
from servetwin.metrics.stats import describe, describe_weighted
from servetwin.metrics.timeline import Grid, most_intervals
from servetwin.metrics.tokens import TokenLog

SCHEMA_VERSION = 1


def summarize(records: Records, tokens: TokenLog, *, seed: int, scenario_hash: str) -> dict[str, Any]:
    """Return the summary, ready for JSON: plain numbers, None where a number is undefined.

    The keys are those of ``docs/metrics.md``; ``instances`` repeats them for each instance.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "scenario_hash": scenario_hash,
        "incomplete": not records.outcome.complete,
        **_summarize(records, tokens, records.cluster),
        **encoder_summary(records),
        **_pools(records, tokens),
        "instances": [
            {"name": spec.name, "pool": spec.pool, "device": spec.device, "model": spec.model}
            | _summarize(records, tokens, scope)
            for spec, scope in zip(records.instances, records.scopes, strict=True)
        ],
        "notices": notices(records),
    }


def _pools(records: Records, tokens: TokenLog) -> dict[str, Any]:
    """Return the summaries of the pools, where there are several."""
    if len(records.pools) == 1:
        return {}
    entries = []
    for name, scope in records.pools:
        first = records.instances[scope.instances.start]
        known = {"name": name, "role": first.role, "device": first.device, "model": first.model}
        entries.append(known | {"num_instances": len(scope.instances)} | _summarize(records, tokens, scope))
    return {"pools": entries}


def notices(records: Records) -> list[str]:
    """Return what a reader of the result should know, each said once, in a fixed order."""
    outcome = records.outcome
    rejected = int((records.state == REJECTED).sum())
    said = [f"{rejected} of {len(records)} requests were rejected: {_reasons(records)}"] if rejected else []
    grid = Grid.of(records)
    if grid.interval_ns != records.options.interval_ns:
        said.append(
            f"the time series have intervals of {grid.interval_ns / NS_PER_S:g} s instead of "
            f"{records.options.interval_s:g} s, so that there are at most {most_intervals(len(records.instances)):,}"
        )
    said += [*outcome.workload.notices, *outcome.notices]
    for spec in outcome.instances:
        said += spec.timing.notices
    return list(dict.fromkeys(said))


def _reasons(records: Records) -> str:
    """Return one of the reasons for which requests were rejected, and that there are more."""
    reasons = list(dict.fromkeys(records.outcome.requests.reasons.values()))
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"{reasons[0]}{more}" if reasons else "no reason given"


def _summarize(records: Records, tokens: TokenLog, scope: Scope) -> dict[str, Any]:
    """Return the part of the summary that cluster and instances have in common."""
    rows = scope.rows
    states = np.bincount(records.state[rows], minlength=len(STATE_NAMES)).tolist()
    latencies = latencies_s(records, records.rows_where(records.measured, rows))
    token_counts = _token_counts(records, scope)
    duration_s = (records.stop_ns - records.start_ns) / NS_PER_S
    summary = {
        "requests": {
            "total": sum(states),
            "completed": states[STATE_NAMES.index("completed")],
            "rejected": states[STATE_NAMES.index("rejected")],
            "by_state": dict(zip(STATE_NAMES, states, strict=True)),
        },
        "tokens": token_counts,
        "duration_s": duration_s,
        "steps": sum(len(records.logs[i].start_ns) for i in scope.instances),
        "preemptions": sum(len(records.logs[i].preempted_ns) for i in scope.instances),
        "throughput": _throughput(states, token_counts, duration_s),
        "ttft_s": describe(latencies["ttft_s"]),
        "tpot_s": describe(latencies["tpot_s"]),
        "itl_s": describe_weighted(*tokens.gaps(scope)),
        "e2e_s": describe(latencies["e2e_s"]),
        "queue_s": describe(latencies["queue_s"]),
        "breakdown_s": _breakdown(records, records.rows_where(records.measured, rows)),
        "slo": _objectives(records, latencies),
        "kv": _kv(records, scope),
    }
    return summary | _client(records, latencies)


def _breakdown(records: Records, rows: Rows) -> dict[str, float | None]:
    """Return the mean of each part of the end-to-end time; None where no request is measured."""
    parts = breakdown_ns(records, rows)
    return {f"{name}_s": float(values.mean()) / NS_PER_S if len(values) else None for name, values in parts.items()}


def _token_counts(records: Records, scope: Scope) -> dict[str, int]:
    """Return tokens by kind: prompts that were computed, tokens that appeared, found cached, computed again."""
    prompts = scope.prompts
    computed = records.prompt_ns[prompts] >= 0
    logs = [records.logs[i] for i in scope.instances]
    further = sum(int(column(log.decoded).sum()) + len(log.resumed_ns) for log in logs)
    return {
        "prompt": int(records.prompt_tokens[prompts][computed].sum()),
        "output": int(records.first_here(scope).sum()) + further,
        "cached": int(records.cached_tokens[prompts].clip(min=0).sum()),
        "recomputed": int(records.recomputed_tokens[scope.outputs].sum()),
    }


def _throughput(states: list[int], tokens: dict[str, int], duration_s: float) -> dict[str, float]:
    """Return completed requests and tokens per second of the duration; 0 where no time passed."""
    counts = {
        "requests_per_s": states[STATE_NAMES.index("completed")],
        "output_tokens_per_s": tokens["output"],
        "prompt_tokens_per_s": tokens["prompt"],
        "total_tokens_per_s": tokens["prompt"] + tokens["output"],
    }
    return {name: _per_second(count, duration_s) for name, count in counts.items()}


def _per_second(count: int, duration_s: float) -> float:
    return count / duration_s if duration_s > 0 else 0.0


def _objectives(records: Records, latencies: dict[str, Floats]) -> dict[str, Any]:
    """Return the share of measured requests that meet each objective, and those that meet all, per second."""
    attainment: dict[str, float | None] = {}
    good: NDArray[np.bool_] = np.ones(len(latencies["ttft_s"]), dtype=bool)
    for name, limit in records.options.slo.items():
        defined = ~np.isnan(latencies[name])
        met = latencies[name] <= limit
        attainment[name] = int(met.sum()) / int(defined.sum()) if defined.any() else None
        good &= met | ~defined
    measured_s = (records.stop_ns - max(records.start_ns, records.options.warmup_ns)) / NS_PER_S
    goodput = _per_second(int(good.sum()), measured_s) if attainment else None
    return {"attainment": attainment, "goodput_per_s": goodput}


def _kv(records: Records, scope: Scope) -> dict[str, Any]:
    """Return the number of blocks, the peak use of the fullest instance, and the prefix cache's hit rate."""
    used = [_peak_used_fraction(records, i) for i in scope.instances]
    return {
        "blocks": sum(records.instances[i].settings.num_blocks for i in scope.instances),
        "peak_used_fraction": max(used, default=0.0),
        "prefix_hit_rate": _hit_rate(records, scope.prompts),
    }


def _peak_used_fraction(records: Records, instance: int) -> float:
    log = records.logs[instance]
    peak = max(int(column(blocks).max(initial=0)) for blocks in (log.kv_used_blocks, log.idle_used_blocks))
    return peak / records.instances[instance].settings.num_blocks


def _hit_rate(records: Records, rows: Rows) -> float:
    """Return cached / looked-up prompt tokens; 0 where nothing was looked up, as in vLLM."""
    chosen = records.looked_up[rows]
    looked_up = int(records.prompt_tokens[rows][chosen].sum())
    return int(records.cached_tokens[rows][chosen].sum()) / looked_up if looked_up else 0.0


def _client(records: Records, latencies: dict[str, Floats]) -> dict[str, Any]:
    """Return the latencies that a client sees, where a front-end model is on."""
    front_end = records.outcome.front_end
    if front_end is None:
        return {}
    delay_s = (front_end.request_ns + front_end.response_ns) / NS_PER_S
    return {"client": {name: describe(latencies[name] + delay_s) for name in ("ttft_s", "e2e_s")}}
