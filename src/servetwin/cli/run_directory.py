"""Where a run's files go, and what may be replaced there."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from servetwin.core.errors import InputError

RUNS = Path("runs")

MARK = "run.json"
"""The file by which the directory of an earlier run is known."""


def default_directory(name: str) -> Path:
    """Make and return the first ``runs/<name>-<n>`` that was not there: runs at the same time get one each."""
    RUNS.mkdir(exist_ok=True)
    for n in count(1):
        path = RUNS / f"{name}-{n}"
        try:
            path.mkdir()
            break
        except FileExistsError:
            continue
    return path


def check_directory(output: Path | None, *, force: bool) -> None:
    """Check, before anything is simulated, that a run may be written to a directory, which need not exist yet.

    Parameters
    ----------
    output
        What the user asked for; None: a new one in ``runs``.
    force
        Write even where something else stands.

    Raises
    ------
    InputError
        If ``output`` is no directory, cannot be made, or holds something that is no earlier run.
    """
    if output is None:
        _refuse_strangers(RUNS, MARK, "run", force=True)
    else:
        _refuse_strangers(output, MARK, "run", force=force)


def choose_sweep_directory(output: Path | None, name: str, table: str, *, force: bool) -> Path:
    """Return the directory of a sweep, ``runs/<name>-sweep`` by default: a sweep that stands there goes on.

    Raises
    ------
    InputError
        If it is no directory, or holds something that is no sweep.
    """
    return _refuse_strangers(output or RUNS / f"{name}-sweep", table, "sweep", force=force)


def _refuse_strangers(path: Path, mark: str, what: str, *, force: bool) -> Path:
    if path.exists() and not path.is_dir():
        raise InputError("is a file; name a directory", where=str(path))
    above = next(folder for folder in (path, *path.parents, Path(".")) if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"cannot be written: {above} is no directory that may be written to", where=str(path))
    if path.is_dir() and not force and not (path / mark).is_file() and any(path.iterdir()):
        raise InputError(
            f"is not empty and holds no earlier {what}; name another directory, or --force to write beside that",
            where=str(path),
        )
    return path
