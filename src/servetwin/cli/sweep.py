"""``servetwin sweep``: one scenario at many points."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from servetwin.cli.options import AllowCommands, Force, Json, Quiet, ScenarioFile, Seed, Sets

if TYPE_CHECKING:
    from servetwin.experiment.sweep import Row

_SHOWN = ("ttft_s.mean", "ttft_s.p99", "tpot_s.mean", "throughput.output_tokens_per_s", "slo.goodput_per_s")


def mount(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("sweep")(sweep)


def sweep(
    scenario: ScenarioFile,
    vary: Annotated[
        list[str],
        typer.Option("--vary", metavar="PATH=A,B,C", help="Values to go through. May be repeated: all combinations."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Where to write; default: runs/<scenario>-sweep."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=1024, help="Processes at the same time.")] = 1,
    sets: Sets = None,
    seed: Seed = None,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
    allow_commands: AllowCommands = False,
) -> None:
    """Simulate a scenario at every combination of some values; a sweep that was stopped goes on where it was."""
    from servetwin.cli.console import progress
    from servetwin.cli.run_directory import choose_sweep_directory
    from servetwin.experiment.sweep import TABLE, run_sweep, sweep_points
    from servetwin.experiment.sweep_page import sweep_page
    from servetwin.scenario.edits import parse_edits, parse_variations
    from servetwin.scenario.load import load_scenario

    edits = parse_edits(sets or [], "--set")
    loaded = load_scenario(scenario, edits=edits, seed=seed, option="--set", allow_commands=allow_commands)
    folder = choose_sweep_directory(output, loaded.name, TABLE, force=force)
    points = sweep_points(loaded, parse_variations(vary, "--vary"))
    with progress("sweeping", total=len(points), quiet=quiet) as advance:
        rows = run_sweep(points, folder, jobs=jobs, progress=advance)
    picture = folder / "sweep.html"
    picture.write_text(sweep_page(f"Sweep of {loaded.name}", rows), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps([_numbers(row) for row in rows], indent=2))
    elif not quiet:
        _print(rows, folder / TABLE, picture)


def _print(rows: list[Row], table: Path, picture: Path) -> None:
    from servetwin.cli.console import print_table
    from servetwin.experiment.sweep import varied_paths

    paths = varied_paths(rows)
    results = [column for column in _SHOWN if any(row.get(column) for row in rows)]
    print_table(
        [{path: row[path] for path in paths} | {name: _number(row.get(name)) for name in results} for row in rows]
    )
    for row in rows:
        if row["error"]:
            typer.echo(f"failed: {', '.join(f'{path}={row[path]}' for path in paths)}: {row['error']}")
    typer.echo(f"table:   {table}")
    typer.echo(f"picture: {picture}")


def _numbers(row: Row) -> dict[str, Any]:
    """Return a row of the table with numbers in place of their texts: results, and values that were varied."""
    from servetwin.experiment.sweep import varied_paths

    texts = ("scenario_hash", "error")
    varied = varied_paths([row])
    return {
        name: text if name in texts else _value(text) if name in varied else _number(text) for name, text in row.items()
    }


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a plain text: the name of a router
        return text


def _number(text: str | None) -> float | None:
    return float(text) if text else None
