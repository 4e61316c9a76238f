"""``servetwin power``: recording a machine's power, and learning its constants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from servetwin.cli.options import Force, Json, Quiet

if TYPE_CHECKING:
    from servetwin.calibrate.power.record import Source


def mount(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(help="Record a machine's power, and learn its constants.", no_args_is_help=True)
    group.command("record")(record)
    group.command("fit")(fit)
    app.add_typer(group, name="power")


def record(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="SERIES.csv", help="Where to write.")],
    accelerators: Annotated[
        Literal["nvml", "smi", "none"], typer.Option(help="How to read accelerators: NVML or nvidia-smi.")
    ] = "nvml",
    node: Annotated[Literal["ipmi", "none"], typer.Option(help="How to read the whole machine.")] = "none",
    interval_s: Annotated[float, typer.Option("--interval", min=0.05, max=3600, help="Seconds between rows.")] = 1.0,
    duration_s: Annotated[
        float, typer.Option("--duration", min=1, max=1e7, help="Seconds to record; Ctrl-C ends it earlier.")
    ] = 3600.0,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Write a machine's power to a CSV, a row per interval: gpu0_w, gpu1_w, ..., node_w."""
    from servetwin.calibrate.power.record import record as record_rows
    from servetwin.core.errors import InputError

    if output.exists() and not force:
        raise InputError("there is a file already; choose another name, or --force to overwrite it", where=str(output))
    sources = _sources(accelerators, node)
    rows = record_rows(sources, output, interval_s=interval_s, duration_s=duration_s)
    if not quiet:
        typer.echo(f"{rows} rows; wrote {output}")


def _sources(accelerators: str, node: str) -> list[Source]:
    from servetwin.calibrate.power.record import IpmiSource, NvmlSource, SmiSource
    from servetwin.core.errors import InputError

    sources: list[Source] = []
    if accelerators != "none":
        sources.append(NvmlSource() if accelerators == "nvml" else SmiSource())
    if node != "none":
        sources.append(IpmiSource())
    if not sources:
        raise InputError("nothing to read: give --accelerators or --node")
    return sources


def fit(
    series: Annotated[Path, typer.Argument(metavar="SERIES", help="Readings: CSV or TSV.")],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run of the same load, or its scenario.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="POWER.yaml", help="Where to write.")] = None,
    accelerators: Annotated[
        int | None, typer.Option(min=1, max=1024, help="That stand in the machine; default: those of the run.")
    ] = None,
    until_s: Annotated[
        float | None, typer.Option("--until", metavar="SECONDS", help="Fit on readings before this; compare the rest.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Learn a machine's constants from its measured power and a run of the same load."""
    import json

    from servetwin.calibrate.power.fit_run import fit_run
    from servetwin.cli.console import print_table

    found = fit_run(series, run, accelerators=accelerators, until_s=until_s)
    if output is not None:
        output.write_text(found.yaml(), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({"power": found.options, "errors": found.errors}, indent=2))
        return
    typer.echo(found.yaml())
    print_table([{"readings": name, **errors} for name, errors in found.errors.items()])
