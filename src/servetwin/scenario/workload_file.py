"""Reads a workload without a cluster: the ``workload:`` of a scenario, or that part alone as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from servetwin.core.errors import InputError
from servetwin.scenario.base import Options
from servetwin.scenario.explain import explain, shorten
from servetwin.scenario.workload_field import WorkloadField, build_workload
from servetwin.scenario.yaml_source import KeyPath, read_yaml
from servetwin.workload.base import Workload


class WorkloadFile(Options):
    """A workload and its seed."""

    seed: int = Field(0, ge=0, le=2**63 - 1)
    workload: WorkloadField


def read_workload(path: str | Path, *, seed: int | None = None) -> Workload:
    """Return the requests that a YAML file describes.

    Parameters
    ----------
    path
        A scenario, of which only ``seed`` and ``workload`` are read, or what stands below ``workload`` (and ``seed``).
    seed
        Replaces the file's seed.

    Raises
    ------
    InputError
        For anything that is wrong with it, with file and line.
    """
    document = read_yaml(path)
    if not isinstance(document.data, Mapping):
        raise InputError(f"a workload is a mapping of keys to values, given {shorten(document.data)}", where=str(path))
    whole = "workload" in document.data
    data = _whole(document.data) if whole else _alone(document.data)

    def where(key: KeyPath) -> str:
        inner = key if whole or key[:1] != ("workload",) else key[1:]
        return f"{document.label}:{document.line(inner)}"

    try:
        file = WorkloadFile.model_validate(data)
    except ValidationError as error:
        raise explain(error, WorkloadFile, data, where) from None
    return build_workload(file.workload, file.seed if seed is None else seed, Path(path).parent)


def _whole(data: Mapping[Any, Any]) -> dict[str, Any]:
    return {key: data[key] for key in ("seed", "workload") if key in data}


def _alone(data: Mapping[Any, Any]) -> dict[str, Any]:
    inner = {key: value for key, value in data.items() if key != "seed"}
    return {"workload": inner} | {key: data[key] for key in ("seed",) if key in data}
