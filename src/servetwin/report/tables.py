"""Tables and tiles of a report, as HTML, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from servetwin.metrics.stats import STATISTICS

LATENCY_NAMES = {
    "ttft_s": ("TTFT", "time to first token"),
    "tpot_s": ("TPOT", "time per output token after the first"),
    "itl_s": ("ITL", "gap between tokens"),
    "e2e_s": ("E2E", "arrival to finish"),
    "queue_s": ("Queue", "arrival to first step"),
}

MAX_ROWS = 64


def duration(seconds: float | None) -> str:
    """Return a time with three digits and a unit that suits it; a dash for None."""
    if not seconds:
        return "–" if seconds is None else "0 s"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if abs(seconds) * factor >= 0.9995 or unit == "µs":
            break
    value = seconds * factor
    return f"{value:,.0f} {unit}" if abs(value) >= 99.95 else f"{value:#.3g} {unit}"


def number(value: float | None) -> str:
    """Return a number with three digits, more if it is a thousand or greater; a dash for None."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 99.95 or value == int(value) else f"{value:.3g}"


def percent(share: float | None) -> str:
    """Return a share in percent; a dash for None."""
    return "–" if share is None else f"{share:.1%}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells are HTML; the first cell of a row is its heading. A long table scrolls."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    lines = [f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows]
    tall = " tall" if len(lines) > 12 else ""
    return (
        f'<div class="scroll{tall}"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def latency_table(summary: Mapping[str, Any]) -> str:
    """Return the latencies of a summary, at the client too where it has them."""
    rows = [[_named(*LATENCY_NAMES[key]), *map(duration, summary[key].values())] for key in LATENCY_NAMES]
    for key, statistics in summary.get("client", {}).items():
        short, long = LATENCY_NAMES[key]
        rows.append([_named(f"{short} at the client", long), *map(duration, statistics.values())])
    return table(["", *STATISTICS], rows)


def instance_table(instances: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per instance, the first ``MAX_ROWS`` of them."""
    header = ["Instance", "device", "completed", "output tokens/s", "TTFT p50", "TTFT p99", "TPOT p50", "preemptions"]
    header += ["KV peak", "prefix hits"]
    rows = [
        [
            escape(entry["name"]),
            escape(entry["device"]),
            number(entry["requests"]["completed"]),
            number(entry["throughput"]["output_tokens_per_s"]),
            duration(entry["ttft_s"]["p50"]),
            duration(entry["ttft_s"]["p99"]),
            duration(entry["tpot_s"]["p50"]),
            number(entry["preemptions"]),
            percent(entry["kv"]["peak_used_fraction"]),
            percent(entry["kv"]["prefix_hit_rate"]),
        ]
        for entry in instances[:MAX_ROWS]
    ]
    more = len(instances) - MAX_ROWS
    note = f'<p class="caption">{more:,} more are in summary.json.</p>' if more > 0 else ""
    return table(header, rows) + note


def pool_table(pools: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per pool: what it did, and where its requests' time went."""
    parts = {
        "prefill_s": "prefill",
        "transfer_s": "transfer",
        "decode_queue_s": "queue at decode",
        "decode_s": "decode",
    }
    header = ["Pool", "role", "instances", "prompt tokens/s", "output tokens/s", "KV peak"]
    rows = [
        [
            escape(pool["name"]),
            pool["role"],
            number(pool["num_instances"]),
            number(pool["throughput"]["prompt_tokens_per_s"]),
            number(pool["throughput"]["output_tokens_per_s"]),
            percent(pool["kv"]["peak_used_fraction"]),
            *(duration(pool["breakdown_s"][part]) for part in parts),
        ]
        for pool in pools
    ]
    return table([*header, *parts.values()], rows) + '<p class="caption">The last four columns are means.</p>'


def tiles(entries: Iterable[tuple[str, str, str]]) -> str:
    """Return numbers that stand out: label, value and note of each."""
    return f'<dl class="tiles">{"".join(_tile(*entry) for entry in entries)}</dl>'


def _tile(label: str, value: str, note: str) -> str:
    small = f'<div class="note">{escape(note)}</div>' if note else ""
    return f'<div class="tile"><dt>{escape(label)}</dt><dd>{escape(value)}{small}</dd></div>'


def _named(short: str, long: str) -> str:
    return f"{escape(short)} <span>{escape(long)}</span>"
