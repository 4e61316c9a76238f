"""Reads a scenario: from a file, a mapping or a `Scenario`, with edits, checked against the schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from servetwin.core.errors import InputError
from servetwin.scenario.edits import apply_edits
from servetwin.scenario.explain import explain, shorten
from servetwin.scenario.schema import Scenario
from servetwin.scenario.yaml_source import KeyPath, YamlSource, read_yaml

RESOLVED = "resolved"
"""A key that a run adds to its ``resolved.yaml`` (facts, not settings); it is skipped when that file is read again."""


@dataclass(frozen=True, slots=True)
class LoadedScenario:
    """A scenario, and where it came from.

    Attributes
    ----------
    name
        The file's name without its ending, or "scenario".
    folder
        The folder from which relative paths count.
    file
        The file, or None when it came from Python.
    """

    scenario: Scenario
    name: str
    folder: Path
    file: str | None = None


def load_scenario(
    source: str | Path | Mapping[str, Any] | Scenario | LoadedScenario,
    *,
    edits: Mapping[str, Any] | None = None,
    seed: int | None = None,
    folder: str | Path | None = None,
) -> LoadedScenario:
    """Read and check a scenario.

    Parameters
    ----------
    source
        Path of a YAML file, or the same as a mapping, or a `Scenario`.
    edits
        Values by dotted path, set before the check: ``{"cluster.chat.replicas": 4}``.
    seed
        Replaces the scenario's seed.
    folder
        Where relative paths count from; default: the file's folder, or the current one.

    Raises
    ------
    InputError
        For anything that is wrong with it, one line per mistake, with file and line where there is a file.
    """
    if isinstance(source, LoadedScenario):
        base = source
        source = base.scenario
        folder = folder or base.folder
        name, file = base.name, base.file
    else:
        name, file = _names(source)
    document = _document(source, file)
    data, places = apply_edits(document.data, dict(edits or {}))
    if seed is not None:
        data, more = apply_edits(data, {"seed": seed}, "--seed")
        places |= dict.fromkeys(more, "--seed")
    scenario = _validate(data, document, places)
    return LoadedScenario(scenario, name, Path(folder) if folder else _folder(file), file)


def _names(source: object) -> tuple[str, str | None]:
    if isinstance(source, str | Path):
        path = Path(source)
        return (path.parent.name if path.name == "resolved.yaml" else path.stem), str(source)
    return "scenario", None


def _folder(file: str | None) -> Path:
    """Return the file's folder; for a ``resolved.yaml`` the one of the scenario that its run read."""
    if file is None:
        return Path()
    folder = Path(file).parent
    run = folder / "run.json"
    if Path(file).name == "resolved.yaml" and run.is_file():
        try:
            return Path(json.loads(run.read_text(encoding="utf-8"))["scenario_folder"])
        except (OSError, ValueError, KeyError, TypeError):
            return folder
    return folder


def _document(source: object, file: str | None) -> YamlSource:
    if file is not None:
        document = read_yaml(file)
    elif isinstance(source, Scenario):
        document = YamlSource(source.model_dump(exclude_unset=True), "")
    else:
        document = YamlSource(source, "")
    if document.data is None:
        raise InputError("the scenario is empty; `servetwin init` writes one to start from", where=file)
    if not isinstance(document.data, Mapping):
        raise InputError(f"a scenario is a mapping of keys to values, given {shorten(document.data)}", where=file)
    plain = {key: value for key, value in document.data.items() if key != RESOLVED}
    return YamlSource(plain, document.label, document.root)


def _validate(data: Any, document: YamlSource, places: dict[KeyPath, str]) -> Scenario:
    def where(path: KeyPath) -> str | None:
        for i in range(len(path), 0, -1):
            if path[:i] in places:
                return places[path[:i]]
        line = document.line(path)
        return f"{document.label}:{line}" if line is not None else document.label or None

    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        raise explain(error, Scenario, data, where) from None
    except RecursionError:
        raise InputError("nested too deeply", where=document.label or None) from None
