"""``servetwin init``: a commented scenario to start from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from servetwin.cli.options import Force
from servetwin.core.errors import InputError


def mount(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("init")(init)


def template() -> str:
    """Return the commented scenario."""
    return (files("servetwin.cli") / "scenario_template.yaml").read_text(encoding="utf-8")


def init(
    path: Annotated[Path, typer.Argument(metavar="[FILE]", help="Where to write it.")] = Path("scenario.yaml"),
    force: Force = False,
) -> None:
    """Write a commented scenario to start from."""
    if path.exists() and not force:
        raise InputError("there is a file already; choose another name, or --force", where=str(path))
    try:
        path.write_text(template(), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from None
    typer.echo(f"wrote {path}; next: servetwin run {path}")
