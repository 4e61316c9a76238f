"""Copies of the files that an imported scenario refers to, for who wants to carry it elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from servetwin.core.errors import InputError


def copy_files(data: dict[str, Any], scenario: Path) -> None:
    """Copy profiles, workload and model files to ``<scenario>-files/`` and let the scenario's paths point there.

    Parameters
    ----------
    data
        The scenario, whose paths are relative to its folder; changed in place.
    scenario
        Where it will be written.

    Raises
    ------
    InputError
        If something cannot be copied.
    """
    target = scenario.parent / f"{scenario.stem}-files"
    places: dict[Path, str] = {}

    def moved(reference: str) -> str:
        original = (scenario.parent / reference).resolve()
        if original not in places:
            name = original.name if original.is_file() else "-".join(original.parts[-3:])
            taken = [place for place in places.values() if place.endswith(f"/{name}")]
            places[original] = f"{target.name}/{len(taken)}-{name}" if taken else f"{target.name}/{name}"
            _copy(original, scenario.parent / places[original])
        return places[original]

    data["workload"]["path"] = moved(data["workload"]["path"])
    for pool in data["cluster"]:
        if "path" in pool["step"]:
            pool["step"]["path"] = moved(pool["step"]["path"])
        if str(pool.get("model", "")).endswith(".json"):
            pool["model"] = moved(pool["model"])


def _copy(original: Path, copy: Path) -> None:
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        if original.is_dir():
            shutil.copytree(original, copy, dirs_exist_ok=True)
        else:
            shutil.copyfile(original, copy)
    except (OSError, shutil.Error) as error:
        raise InputError(f"cannot be copied to {copy}: {error}", where=str(original)) from error
