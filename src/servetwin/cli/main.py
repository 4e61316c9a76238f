"""The command line. Each command imports what it needs when it runs, so that help and version come at once."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from servetwin._version import __version__
from servetwin.core.errors import InputError, ServetwinError, StuckError

INPUT, STUCK, DEFECT, INTERRUPTED = 2, 3, 1, 130
"""Exit codes: something given is wrong, no progress is possible, a check of our own state failed, Ctrl-C."""


def exit_code(error: ServetwinError) -> int:
    """Return the exit code that an error ends the process with."""
    if isinstance(error, InputError):
        return INPUT
    return STUCK if isinstance(error, StuckError) else DEFECT


class Commands(TyperGroup):
    """The commands; an expected error becomes a message and an exit code, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except ServetwinError as error:
            typer.echo(f"error: {error}", err=True)
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:  # the reader of our output (`| head`) has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except OSError as error:  # a full disk, a directory that may not be written to
            typer.echo(f"error: {error.filename or 'output'}: {error.strerror or error}", err=True)
            ctx.exit(INPUT)


app = typer.Typer(
    cls=Commands,
    name="servetwin",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"servetwin {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Predict how a deployment of large language models behaves, before any hardware is bought."""


def _mount() -> None:
    from servetwin.cli import accuracy, catalogue, importers, power, profile, run, start, sweep, validate, workload

    for module in (run, start, sweep, workload, catalogue, importers, validate, profile, power, accuracy):
        module.mount(app)


_mount()


def main() -> None:
    """Run the command line (the ``servetwin`` script)."""
    try:
        app(prog_name="servetwin")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
