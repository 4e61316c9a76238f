"""Helpers to walk a profile's folders, with errors that name what exists."""

from __future__ import annotations

import re
from pathlib import Path

from servetwin.core.errors import InputError

_DEGREE = re.compile(r"tp([1-9][0-9]*)")


def degrees(folder: Path) -> dict[int, Path]:
    """Return the ``tp<N>`` folders below ``folder``, by degree, ascending."""
    if not folder.is_dir():
        return {}
    found = {
        int(match[1]): entry
        for entry in folder.iterdir()
        if entry.is_dir() and (match := _DEGREE.fullmatch(entry.name))
    }
    return dict(sorted(found.items()))


def degree_folder(folder: Path, tensor_parallel_size: int) -> Path:
    """Return the folder of one tensor-parallel degree.

    Raises
    ------
    InputError
        If there is none; it names the degrees that exist.
    """
    found = degrees(folder)
    if tensor_parallel_size not in found:
        known = ", ".join(map(str, found)) or "none"
        message = f"not profiled at tensor_parallel_size {tensor_parallel_size}; degrees that exist: {known}"
        raise InputError(message, where=str(folder))
    return found[tensor_parallel_size]


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in ``folder``, sorted; empty where it is absent."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
