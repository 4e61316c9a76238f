"""The end of ``servetwin run``: the numbers that matter, and where the rest is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from servetwin.cli.console import print_table
from servetwin.cli.run_energy import energy_lines

if TYPE_CHECKING:
    from servetwin.scenario.result import Result

_LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s")
_STATISTICS = ("mean", "p50", "p90", "p95", "p99")


def print_summary(result: Result, directory: Path, *, report: bool) -> None:
    """Print what matters of a result, and the paths of its files."""
    summary = result.summary
    for notice in summary["notices"]:
        typer.echo(f"note: {notice}")
    typer.echo(_requests(summary))
    typer.echo(_throughput(summary))
    typer.echo(_memory(summary))
    for line in energy_lines(summary):
        typer.echo(line)
    for pool, use in summary.get("attention_ffn", {}).items():
        typer.echo(_sides(pool, use))
    if "encoders" in summary:
        typer.echo(_encoders(summary["encoders"]))
    if summary["slo"]["attainment"]:
        typer.echo(_objectives(summary["slo"]))
    typer.echo()
    print_table([_latency(name, summary[name]) for name in _LATENCIES])
    typer.echo()
    typer.echo(result.limit)
    typer.echo(f"results: {directory}")
    if report:
        typer.echo(f"report:  {directory / 'report.html'}")


def _requests(summary: dict[str, Any]) -> str:
    requests = summary["requests"]
    parts = [f"{requests['completed']:,} of {requests['total']:,} requests completed"]
    if requests["rejected"]:
        parts.append(f"{requests['rejected']:,} rejected")
    if summary["incomplete"]:
        parts.append("INCOMPLETE: the run was interrupted")
    return f"{', '.join(parts)}; {summary['duration_s']:,.1f} s simulated"


def _throughput(summary: dict[str, Any]) -> str:
    rates = summary["throughput"]
    return (
        f"{rates['requests_per_s']:,.2f} requests/s, {rates['output_tokens_per_s']:,.0f} output tokens/s, "
        f"{rates['total_tokens_per_s']:,.0f} tokens/s"
    )


def _memory(summary: dict[str, Any]) -> str:
    kv = summary["kv"]
    return (
        f"KV cache at most {kv['peak_used_fraction']:.1%} used, prefix hit rate {kv['prefix_hit_rate']:.1%}, "
        f"{summary['preemptions']:,} preemptions"
    )


def _sides(pool: str, use: dict[str, Any]) -> str:
    return (
        f"{pool}: attention devices busy {use['attention_busy']:.0%} of the steps' time, FFN devices "
        f"{use['ffn_busy']:.0%}, the link between them {use['link_busy']:.0%}; {use['micro_batches']:.1f} micro-batches"
    )


def _encoders(encoders: dict[str, Any]) -> str:
    line = (
        f"{encoders['workers']:,} encoders busy {encoders['busy_fraction']:.0%} of the time: "
        f"{encoders['requests']:,} requests in {encoders['batches']:,} batches"
    )
    names = {"encoder_queue_s": "waiting", "encode_s": "encoding", "embedding_s": "embeddings' way"}
    means = [f"{name} {encoders[key]['mean'] * 1e3:,.1f} ms" for key, name in names.items() if encoders[key]["mean"]]
    return f"{line}; {', '.join(means)} on average" if means else line


def _objectives(slo: dict[str, Any]) -> str:
    met = [f"{name} {'-' if share is None else f'{share:.1%}'}" for name, share in slo["attainment"].items()]
    return f"objectives met: {', '.join(met)}; goodput {slo['goodput_per_s']:,.2f} requests/s"


def _latency(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return a row in milliseconds."""
    row: dict[str, Any] = {"ms": name.removesuffix("_s")}
    for statistic in _STATISTICS:
        value = values[statistic]
        row[statistic] = None if value is None else value * 1000
    return row
