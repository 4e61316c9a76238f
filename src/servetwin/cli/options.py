"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

ScenarioFile: TypeAlias = Annotated[Path, typer.Argument(metavar="SCENARIO.yaml", help="The scenario.")]

Sets: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Change a value: cluster.chat.engine.max_num_seqs=128. May be repeated."
    ),
]

Seed: TypeAlias = Annotated[int | None, typer.Option("--seed", help="Replace the scenario's seed.")]

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]

Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]

Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Write even where something else stands.")]

AllowCommands: TypeAlias = Annotated[
    bool,
    typer.Option("--allow-commands", help="Run the external commands that the scenario or its devices name."),
]
