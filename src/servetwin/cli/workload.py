"""``servetwin workload``: writes a workload as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from servetwin.cli.options import Force, Quiet, Seed
from servetwin.core.errors import InputError


def mount(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("workload")(workload)


def workload(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="A scenario, or its workload: part alone.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.jsonl", help="Where to write it.")],
    seed: Seed = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Draw a workload and write it as a file (LLMServingSim's JSONL)."""
    from servetwin.scenario.workload_file import read_workload
    from servetwin.workload.jsonl_writer import write_jsonl

    if output.exists() and not force:
        raise InputError("there is a file already; choose another name, or --force", where=str(output))
    requests = read_workload(spec, seed=seed)
    write_jsonl(requests, output)
    if not quiet:
        for notice in requests.notices:
            typer.echo(f"note: {notice}")
        typer.echo(f"wrote {output}: {len(requests):,} requests")
