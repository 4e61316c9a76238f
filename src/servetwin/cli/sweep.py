"""``servetwin sweep``."""

from __future__ import annotations

import typer


def mount(app: typer.Typer) -> None:
    """Add the command to ``app``."""
