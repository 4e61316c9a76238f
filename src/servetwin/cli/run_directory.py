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
    if output.exists() and not output.is_dir():
        raise InputError("is a file; name a directory", where=str(output))
    if output.is_dir() and not force and not (output / MARK).is_file() and any(output.iterdir()):
        raise InputError(
            "is not empty and holds no earlier run; choose another directory, or --force to write beside what is there",
            where=str(output),
        )
    return output
