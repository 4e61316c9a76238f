"""``servetwin accuracy``: all cases with measured data, for developers of servetwin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def mount(app: typer.Typer) -> None:
    """Add the command to ``app``; it needs the reference data, so that help does not list it."""
    app.command("accuracy", hidden=True)(accuracy)


def accuracy(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.md", help="Where to write the page.")] = Path(
        "docs/accuracy.md"
    ),
) -> None:
    """Compare with all reference data and write the accuracy page."""
    from servetwin.calibrate.accuracy import reference_folder, write_page

    results = write_page(reference_folder(), output)
    for result in results:
        judged = [check for check in result.checks if check.target is not None]
        typer.echo(f"{len(judged) - len(result.missed)}/{len(judged)} {result.title}")
        for check in result.missed:
            typer.echo(f"    missed: {check.metric} {check.statistic}: {check.error:+.2f} {check.error_unit}")
    typer.echo(f"wrote {output}")
