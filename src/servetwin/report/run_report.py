"""The report of one simulation."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.metrics.measurements import Measurements
from servetwin.metrics.records import Records, latencies_s
from servetwin.metrics.stats import Statistics
from servetwin.metrics.tables import Table
from servetwin.metrics.timeline import kv_blocks
from servetwin.report.between import breakdown, link_use, moving
from servetwin.report.distributions import distribution
from servetwin.report.encoders import encoder_figures, encoder_section
from servetwin.report.energy import energy_figures, energy_section, energy_tiles
from servetwin.report.figures import heat, lines
from servetwin.report.kv_tiers import tier_figures, tier_table
from servetwin.report.page import Figure, charts, page, section
from servetwin.report.tables import (
    LATENCY_NAMES,
    MAX_ROWS,
    duration,
    instance_table,
    latency_table,
    number,
    percent,
    pool_table,
    tiles,
)

_HEAT_TIMES = 300


def run_report(
    measurements: Measurements, summary: dict[str, Any], title: str, subtitle: str, power: Table | None = None
) -> str:
    """Return the page of a simulation: equal simulations give equal pages, byte for byte.

    Parameters
    ----------
    measurements
        Of the simulation.
    summary
        Its summary.
    title, subtitle
        Headings, plain text.
    power
        Power of each component over time, where the scenario asks for it.
    """
    latencies, over_time = _distributions(measurements, summary), _over_time(measurements, summary)
    several = len(summary["instances"]) > 1
    instances = [_outstanding(measurements)] if several else []
    apart = measurements.records.apart
    between = [breakdown(measurements), *link_use(measurements), moving(measurements)] if apart else []
    encoders = encoder_figures(measurements)
    encoders = [breakdown(measurements), *encoders] if encoders and not apart else encoders
    energy, tiers = energy_figures(summary, power), tier_figures(measurements)
    body = [
        _incomplete(summary),
        f'<div class="limit"><b>What limits it</b>{escape(measurements.limit.sentence)}</div>',
        tiles(_tiles(summary)),
        latency_table(summary),
        section("Latencies", charts(latencies)) if latencies else "",
        section("Over time", charts(over_time)) if over_time else "",
        encoder_section(summary, encoders),
        section("Prefill and decode", charts(between) + pool_table(summary["pools"])) if between else "",
        section("KV tiers", charts(tiers) + tier_table(summary)) if "tiers" in summary else "",
        energy_section(summary, energy),
        section("Instances", charts(instances) + instance_table(summary["instances"])) if several else "",
        _notices(summary["notices"]),
    ]
    figures = [*latencies, *over_time, *encoders, *between, *tiers, *energy, *instances]
    return page(title, subtitle, "\n".join(body), figures)


def _incomplete(summary: dict[str, Any]) -> str:
    if not summary["incomplete"]:
        return ""
    unfinished = summary["requests"]["by_state"]["unfinished"]
    return (
        f'<div class="limit alert"><b>Incomplete</b>The run was interrupted: {unfinished:,} requests had not finished, '
        "and all numbers are of the others.</div>"
    )


def _notices(notices: list[str]) -> str:
    items = "".join(f"<li>{escape(notice)}</li>" for notice in notices)
    return section("Notices", f'<ul class="notices">{items}</ul>') if notices else ""


def _tiles(summary: dict[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Yield label, value and note of the numbers that stand out."""
    requests, throughput, kv, slo = (summary[key] for key in ("requests", "throughput", "kv", "slo"))
    rejected = f", {requests['rejected']:,} rejected" if requests["rejected"] else ""
    yield "Requests completed", f"{requests['completed']:,}", f"of {requests['total']:,}{rejected}"
    yield "Duration", duration(summary["duration_s"]), f"{summary['steps']:,} steps"
    yield (
        "Output tokens/s",
        number(throughput["output_tokens_per_s"]),
        f"{number(throughput['requests_per_s'])} requests/s",
    )
    if slo["goodput_per_s"] is not None:
        met = ", ".join(f"{LATENCY_NAMES[key][0]} {percent(share)}" for key, share in slo["attainment"].items())
        yield "Goodput, requests/s", number(slo["goodput_per_s"]), f"objectives met: {met}"
    for key in ("ttft_s", "tpot_s", "e2e_s"):
        yield f"{LATENCY_NAMES[key][0]}, median", duration(summary[key]["p50"]), f"p99 {duration(summary[key]['p99'])}"
    yield "KV cache, peak", percent(kv["peak_used_fraction"]), f"of {kv['blocks']:,} blocks"
    yield "Preemptions", f"{summary['preemptions']:,}", f"{summary['tokens']['recomputed']:,} tokens recomputed"
    yield "Prefix hit rate", percent(kv["prefix_hit_rate"]), f"{summary['tokens']['cached']:,} tokens cached"
    if "tier_hit_rate" in kv:
        yield "Tier hit rate", percent(kv["tier_hit_rate"]), "of prompt tokens, beyond the device's"
    yield from energy_tiles(summary)


def _distributions(measurements: Measurements, summary: dict[str, Any]) -> list[Figure]:
    """Return the cumulative distribution of each latency that any request has."""
    records = measurements.records
    seconds = latencies_s(records, records.rows_where(records.measured, slice(None)))
    figures = []
    for key in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        short, long = LATENCY_NAMES[key]
        if summary[key]["mean"] is None:
            continue
        values, counts = measurements.tokens.gaps(records.cluster) if key == "itl_s" else (seconds[key], None)
        limit = records.options.slo.get(key)
        caption = f"{long}; {_percentiles(summary[key])}"
        figures.append(distribution(f"cdf-{key}", short, caption, {short: (values, counts)}, limit_s=limit))
    return figures


def _percentiles(statistics: Statistics) -> str:
    return ", ".join(f"{name} {duration(statistics[name])}" for name in ("p50", "p90", "p99"))


def _over_time(measurements: Measurements, summary: dict[str, Any]) -> list[Figure]:
    """Return throughput, queue and batch, and KV use over time, of the whole cluster; nothing where no step ran."""
    if not summary["steps"]:
        return []
    series, records = measurements.timeline, measurements.records
    time_s = series["time_s"]
    every = f"per interval of {measurements.grid.interval_ns / 1e9:g} s"
    used, cached = _kv_percent(measurements)
    running = {"running": series["running"], "waiting": series["waiting"]}
    slots = sum(spec.settings.max_num_seqs for spec in records.instances)
    hit_rate = {"prefix hit rate": series["prefix_hit_rate"] * 100}
    draw = partial(lines, interval_s=measurements.grid.interval_ns / 1e9)
    return [
        draw(
            "output", "Output tokens", every, time_s, {"output": series["output_tokens_per_s"]}, "tokens/s", rates=True
        ),
        draw(
            "prompt", "Prompt tokens", every, time_s, {"prompt": series["prompt_tokens_per_s"]}, "tokens/s", rates=True
        ),
        draw("requests", "Batch and queue", f"requests; at most {slots:,} run at once", time_s, running, "requests"),
        draw(
            "kv",
            "KV cache",
            _kv_caption(records),
            time_s,
            {"used": used, "cached": cached},
            "% of blocks",
            stacked=True,
        ),
        *(
            [draw("hits", "Prefix cache", "cached / looked-up prompt tokens so far", time_s, hit_rate, "%")]
            if summary["tokens"]["cached"]
            else []
        ),
    ]


def _kv_caption(records: Records) -> str:
    capacity = sum(spec.settings.num_blocks * spec.kv_bytes_per_block for spec in records.instances)
    size = f" of {capacity / 2**30:,.4g} GiB" if capacity else ""
    return f"share{size} that is referenced (used), or kept for reuse (cached)"


def _kv_percent(measurements: Measurements) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return used and cached KV memory over time, in percent; instances weigh by their bytes, if these are known."""
    records, times = measurements.records, measurements.grid.start_ns
    used, cached, capacity = np.zeros(len(times)), np.zeros(len(times)), 0
    for spec, log in zip(records.instances, records.logs, strict=True):
        weight = spec.kv_bytes_per_block or 1
        used_blocks, cached_blocks = kv_blocks(log, times)
        used += used_blocks * weight
        cached += cached_blocks * weight
        capacity += spec.settings.num_blocks * weight
    return used * (100 / capacity), cached * (100 / capacity)


def _outstanding(measurements: Measurements) -> Figure:
    """Return waiting + running requests of each instance over time; of very many, some evenly spread by their load."""
    table, names = measurements.resources, [spec.name for spec in measurements.records.instances]
    mine = table["kind"] == "instance"
    metric, value = table["metric"][mine], table["value"][mine]
    load = (value[metric == "running"] + value[metric == "waiting"]).reshape(-1, len(names)).T
    shown = np.arange(len(names))
    caption = "waiting + running requests"
    if len(names) > MAX_ROWS:
        by_load = np.argsort(-load.mean(axis=1), kind="stable")
        shown = by_load[np.linspace(0, len(names) - 1, MAX_ROWS).astype(np.int64)]
        caption += f"; {MAX_ROWS} of {len(names):,} instances, from the most to the least loaded"
    step = -(-load.shape[1] // _HEAT_TIMES)
    time_s = measurements.timeline["time_s"][::step]
    return heat("instances", "Load", caption, time_s, [names[i] for i in shown], load[shown, ::step], "requests")
