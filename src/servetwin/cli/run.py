"""``servetwin run`` and ``servetwin check``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from servetwin.cli.options import AllowCommands, Force, Json, Quiet, ScenarioFile, Seed, Sets

if TYPE_CHECKING:
    from servetwin.scenario.build import Deployment


def mount(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("run")(run)
    app.command("check")(check)


def run(
    scenario: ScenarioFile,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Where to write; default: runs/<scenario>-<n>.")
    ] = None,
    sets: Sets = None,
    seed: Seed = None,
    as_json: Json = False,
    check_invariants: Annotated[
        bool, typer.Option("--check-invariants", help="Check the simulation's own state after every event (slow).")
    ] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Leave report.html out.")] = False,
    token_times: Annotated[
        bool, typer.Option("--token-times", help="Write token_times.csv: when every token of every request appeared.")
    ] = False,
    quiet: Quiet = False,
    force: Force = False,
    allow_commands: AllowCommands = False,
) -> None:
    """Simulate a scenario and write its results."""
    from servetwin.cli.console import progress
    from servetwin.cli.run_directory import check_directory, default_directory
    from servetwin.cli.run_summary import print_summary
    from servetwin.core.interrupts import interrupts_handled
    from servetwin.scenario.run import simulate

    deployment = _resolve(scenario, sets, seed, allow_commands)
    check_directory(output, force=force)
    with interrupts_handled(_say_that_results_follow) as interrupts:
        with progress("simulating", total=len(deployment.workload), quiet=quiet) as advance:
            result = simulate(deployment, check_invariants=check_invariants, progress=advance)
        directory = output or default_directory(deployment.loaded.name)
        result.write(directory, report=not no_report, token_times=token_times)
    if as_json:
        typer.echo(json.dumps(result.summary, indent=2))
    elif not quiet:
        print_summary(result, directory, report=not no_report)
    if interrupts.count or not result.outcome.complete:
        raise KeyboardInterrupt


def _say_that_results_follow() -> None:
    typer.echo("interrupted: the results of the run are being written; once more stops at once", err=True)


def check(
    scenario: ScenarioFile,
    sets: Sets = None,
    seed: Seed = None,
    as_json: Json = False,
    allow_commands: AllowCommands = False,
) -> None:
    """Read and resolve a scenario, and run nothing."""
    from servetwin.scenario.resolved import resolved_facts

    deployment = _resolve(scenario, sets, seed, allow_commands)
    facts = resolved_facts(deployment)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    from servetwin.cli.console import print_table

    workload = facts["workload"]
    typer.echo(f"{scenario}: fine")
    typer.echo(
        f"workload: {workload['requests']:,} requests, {workload['prompt_tokens']:,} prompt tokens, "
        f"{workload['output_tokens']:,} output tokens"
    )
    for notice in facts["notices"]:
        typer.echo(f"note: {notice}")
    for rejected in deployment.rejections:
        typer.echo(f"note: a run will reject {rejected}")
    print_table([_pool_row(name, pool) for name, pool in facts["pools"].items()])
    for name, pool in facts["pools"].items():
        if "memory_bytes_per_accelerator" in pool:
            typer.echo(f"\n{name}: memory of one {pool['device']}, GiB")
            print_table([_memory_row(*item) for item in pool["memory_bytes_per_accelerator"].items()])


def _resolve(scenario: Path, sets: list[str] | None, seed: int | None, allow_commands: bool) -> Deployment:
    from servetwin.scenario.build import build
    from servetwin.scenario.edits import parse_edits
    from servetwin.scenario.load import load_scenario

    edits = parse_edits(sets or [], "--set")
    return build(load_scenario(scenario, edits=edits, seed=seed, option="--set", allow_commands=allow_commands))


def _memory_row(part: str, num_bytes: int) -> dict[str, Any]:
    return {"part": part, "gib": num_bytes / 2**30}


def _pool_row(name: str, pool: dict[str, Any]) -> dict[str, Any]:
    gib = 2**30
    return {
        "pool": name,
        "model": pool["model"]["name"] if "model" in pool else None,
        "device": pool["device"],
        "accelerators": pool["accelerators"],
        "weights_gib": pool["weight_bytes"] / gib,
        "kv_gib": pool["kv_bytes"] / gib,
        "kv_blocks": pool["kv_blocks"],
        "max_num_seqs": pool["max_num_seqs"],
        "max_model_len": pool["max_model_len"],
    }
