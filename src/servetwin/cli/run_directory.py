"""Where a run's files go, and what may be replaced there."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from servetwin.core.errors import InputError

MARK = "run.json"
"""The file by which the directory of an earlier run is known."""


def choose_directory(output: Path | None, name: str, *, force: bool) -> Path:
    """Return the directory to write to; it need not exist yet.

    Parameters
    ----------
    output
        What the user asked for; None: the first free ``runs/<name>-<n>``.
    force
        Write even where something else stands.

    Raises
    ------
    InputError
        If ``output`` is no directory, or holds something that is no earlier run.
    """
    if output is None:
        return next(path for n in count(1) if not (path := Path("runs") / f"{name}-{n}").exists())
    return _refuse_strangers(output, MARK, "run", force=force)


def choose_sweep_directory(output: Path | None, name: str, table: str, *, force: bool) -> Path:
    """Return the directory of a sweep, ``runs/<name>-sweep`` by default: a sweep that stands there goes on.

    Raises
    ------
    InputError
        If it is no directory, or holds something that is no sweep.
    """
    return _refuse_strangers(output or Path("runs") / f"{name}-sweep", table, "sweep", force=force)


def _refuse_strangers(path: Path, mark: str, what: str, *, force: bool) -> Path:
    if path.exists() and not path.is_dir():
        raise InputError("is a file; name a directory", where=str(path))
    if path.is_dir() and not force and not (path / mark).is_file() and any(path.iterdir()):
        raise InputError(
            f"is not empty and holds no earlier {what}; name another directory, or --force to write beside that",
            where=str(path),
        )
    return path
