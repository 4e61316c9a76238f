"""``servetwin validate``: a run against measured data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from servetwin.cli.options import Json


def mount(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("validate")(validate)


def validate(
    run_directory: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of a run.")],
    measured: Annotated[
        Path,
        typer.Argument(metavar="MEASURED", help="A per-request log (.jsonl, .csv) or a series (.csv, .tsv)."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where to write; default: RUN_DIR/validation.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a run with measured data: errors per metric and statistic, and an overlay page."""
    import json

    from servetwin.calibrate.validate import validate as compare
    from servetwin.calibrate.validate import write_validation
    from servetwin.cli.console import print_table

    validation = compare(run_directory, measured)
    paths = write_validation(validation, output or run_directory / "validation")
    if as_json:
        typer.echo(json.dumps([row.as_dict() for row in validation.rows], indent=2))
        return
    print_table(
        [
            {
                "metric": row.metric,
                "statistic": row.statistic,
                "unit": row.unit,
                "measured": row.measured_text,
                "simulated": row.simulated_text,
                "error": row.error_text,
            }
            for row in validation.rows
        ]
    )
    typer.echo(f"wrote {', '.join(map(str, paths))}")
