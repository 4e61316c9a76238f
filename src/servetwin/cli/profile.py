"""``servetwin profile``: measuring the machine at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from servetwin.cli.options import Json, Quiet


def mount(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(help="Measure the machine at hand (needs PyTorch).", no_args_is_help=True)
    group.callback()(_group)
    group.command("device")(device)
    app.add_typer(group, name="profile")


def _group() -> None:
    """Measure the machine at hand (needs PyTorch: servetwin[profile])."""


def device(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where to write; goes on if it can.")],
    target: Annotated[str, typer.Option("--device", metavar="cuda|cuda:N|cpu", help="What to measure.")] = "cuda",
    formats: Annotated[
        str | None, typer.Option("--formats", metavar="A,B", help="Number formats; default: bf16,fp8 (cpu: fp32,bf16).")
    ] = None,
    operators: Annotated[
        str | None, typer.Option("--operators", metavar="A,B", help="Only these: gemm,attention_decode,copy,...")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small grid with few samples, to see that all works.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time matrix products, attention, norms, copies and launches on one device, and read its power."""
    import json

    from servetwin.calibrate.device_profile.grid import device_points
    from servetwin.calibrate.device_profile.runner import profile_device
    from servetwin.calibrate.device_profile.sampling import QUICK_PLAN, Plan
    from servetwin.calibrate.device_profile.summary import summary_rows
    from servetwin.calibrate.device_profile.torch_device import open_device
    from servetwin.cli.console import print_table, progress

    target = target.strip().lower()
    points = device_points(target.partition(":")[0], formats=_names(formats), operators=_names(operators), quick=quick)
    plan = QUICK_PLAN if quick else Plan()
    opened = open_device(target, plan)
    with progress("measuring", total=len(points), quiet=quiet) as advance:
        profile = profile_device(opened, output, points, plan, progress=advance)
    rows = summary_rows(profile)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif not quiet:
        print_table(rows)
        left_out = f"; {len(profile.not_measured)} could not be (see not_measured.csv)" if profile.not_measured else ""
        typer.echo(f"{sum(map(len, profile.rows.values()))} points measured{left_out}; wrote {output}")


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
