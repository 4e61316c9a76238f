"""Where a device's operator times come from: the key ``operators`` of its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from servetwin.core.errors import InputError
from servetwin.core.fields import Fields

DEFAULT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class OperatorSources:
    """Files and a command that know how long operators take on a device.

    Attributes
    ----------
    tables
        CSV files.
    command
        A program and its arguments; empty: none.
    folder
        Where the command runs, and from where relative paths counted.
    timeout_s, cache
        How long an answer may take, and where answers are kept; None: nowhere.
    """

    tables: tuple[Path, ...]
    command: tuple[str, ...]
    folder: Path
    timeout_s: float = DEFAULT_TIMEOUT_S
    cache: Path | None = None


def read_operator_sources(data: object, where: str, folder: Path) -> OperatorSources:
    """Return what a mapping ``{tables, command, timeout_s, cache}`` says.

    Raises
    ------
    InputError
        For an unknown key or a value that is none, or if there is neither a table nor a command.
    """
    fields = Fields(data, where)
    tables = (fields.text("tables"),) if isinstance(fields.raw_or_none("tables"), str) else fields.texts("tables")
    sources = OperatorSources(
        tables=tuple(folder / table for table in tables),
        command=fields.texts("command"),
        folder=folder,
        timeout_s=fields.number("timeout_s", DEFAULT_TIMEOUT_S),
        cache=folder / fields.text("cache") if "cache" in fields else None,
    )
    fields.refuse_others()
    if not sources.tables and not sources.command:
        raise InputError("neither tables nor a command are given", where=where)
    return sources
