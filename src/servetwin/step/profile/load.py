"""Finds out what kind of profile a folder holds, and reads it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from servetwin.core.errors import InputError
from servetwin.step.profile.folders import subfolders
from servetwin.step.profile.lss_v0 import is_lss_v0, read_lss_v0
from servetwin.step.profile.lss_v1 import is_lss_v1, read_lss_v1
from servetwin.step.profile.native import is_native, read_native
from servetwin.step.profile.tables import Profile

_READERS = ((is_native, read_native), (is_lss_v1, read_lss_v1), (is_lss_v0, read_lss_v0))


def load_profile(folder: str | Path, tensor_parallel_size: int = 1) -> Profile:
    """Read one tensor-parallel degree of a profile, in place, whatever its format.

    Parameters
    ----------
    folder
        In our format the folder with ``profile.yaml``; of LLMServingSim's bundles the one with ``meta.yaml`` (a
        variant) or, in the older format, the one of the model with ``tp<N>/layers.csv``. A folder that holds exactly
        one such folder stands for it.
    tensor_parallel_size
        The degree.

    Raises
    ------
    InputError
        If there is no profile, or something in it is missing or wrong.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"no such folder; folders beside it: {_beside(path)}", where=str(path))
    if any(holds(path) for holds, _ in _READERS):
        return _read(path.resolve(), str(path), tensor_parallel_size, _state(path))
    inner = [path / name for name in subfolders(path) if any(holds(path / name) for holds, _ in _READERS)]
    if len(inner) == 1:
        return load_profile(inner[0], tensor_parallel_size)
    names = ", ".join(entry.name for entry in inner) or "none"
    message = (
        "holds no profile (profile.yaml, or LLMServingSim's meta.yaml or tp<N>/layers.csv); "
        f"profiles one level below: {names}; give the path of one"
    )
    raise InputError(message, where=str(path))


@lru_cache(maxsize=16)
def _read(folder: Path, as_given: str, tensor_parallel_size: int, state: tuple[tuple[str, int, int], ...]) -> Profile:
    """Read a profile, once for as long as its files stay as they are (``state``)."""
    path = Path(as_given)
    return next(read for holds, read in _READERS if holds(path))(path, tensor_parallel_size)


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, time of last change and size of each file of a profile."""
    files = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return tuple((str(path), status.st_mtime_ns, status.st_size) for path, status in files)


def _beside(path: Path) -> str:
    while not path.parent.is_dir() and path.parent != path:
        path = path.parent
    return f"{', '.join(subfolders(path.parent)) or 'none'} (in {path.parent})"
