"""Reads a scenario: from a file, a mapping or a `Scenario`, with edits, checked against the schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from servetwin.core.errors import InputError
from servetwin.scenario.edits import apply_edits, find_path
from servetwin.scenario.explain import explain, shorten
from servetwin.scenario.schema import Scenario
from servetwin.scenario.yaml_source import KeyPath, YamlSource, read_yaml

RESOLVED = "resolved"
"""A key that a run adds to its ``resolved.yaml`` (facts, not settings); it is skipped when that file is read again."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where each key of a scenario was written: in a file, or in an option of the command line.

    Attributes
    ----------
    document
        As it was read.
    data
        With the edits made.
    edited
        The label of each place that was edited.
    """

    document: YamlSource
    data: Any
    edited: Mapping[KeyPath, str]

    def of_path(self, path: KeyPath) -> str | None:
        """Return the place of a path in the data, or None where that is not known."""
        for i in range(len(path), 0, -1):
            if path[:i] in self.edited:
                return self.edited[path[:i]]
        line = self.document.line(path)
        return f"{self.document.label}:{line}" if line is not None else self.document.label or None

    def of_key(self, key: str) -> str | None:
        """Return the place of a dotted key, or None if the scenario has none that begins like it."""
        parts = key.split(".")
        if parts[0] not in Scenario.model_fields:
            return None
        return self.of_path(find_path(self.data, parts))


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
    allow_commands
        Whether external commands that it names may run.
    """

    scenario: Scenario
    places: Places
    name: str
    folder: Path
    file: str | None = None
    allow_commands: bool = False

    def located(self, error: InputError) -> InputError:
        """Return an error about a key of this scenario with the file and the line of that key, where known."""
        place = self.places.of_key(error.where) if error.where else None
        if not place:
            return error
        text = str(error).removeprefix(f"{error.where}: ") if place.endswith(f" {error.where}") else str(error)
        return InputError(text, where=place)


def load_scenario(
    source: str | Path | Mapping[str, Any] | Scenario | LoadedScenario,
    *,
    edits: Mapping[str, Any] | None = None,
    seed: int | None = None,
    folder: str | Path | None = None,
    option: str = "edits",
    allow_commands: bool = False,
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
    option
        What to call the edits in messages (``--set``).
    allow_commands
        Whether external commands that the scenario names may run; a scenario that was loaded so keeps it.

    Raises
    ------
    InputError
        For anything that is wrong with it, one line per mistake, with file and line where there is a file.
    """
    if isinstance(source, LoadedScenario):
        name, file, own_folder, before = source.name, source.file, source.folder, source.places
    else:
        name, file, own_folder, before = _read(source)
    data, edited = apply_edits(before.data, dict(edits or {}), option)
    if seed is not None:
        data, more = apply_edits(data, {"seed": seed}, "--seed")
        edited |= dict.fromkeys(more, "--seed")
    places = Places(before.document, data, {**before.edited, **edited})
    allowed = allow_commands or (isinstance(source, LoadedScenario) and source.allow_commands)
    return LoadedScenario(_validate(places), places, name, Path(folder) if folder else own_folder, file, allowed)


def _read(source: str | Path | Mapping[str, Any] | Scenario) -> tuple[str, str | None, Path, Places]:
    """Return the name, file, folder and content of a scenario that is not checked yet."""
    name, file = _names(source)
    document = _document(source, file)
    return name, file, _folder(file), Places(document, document.data, {})


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


def _validate(places: Places) -> Scenario:
    try:
        return Scenario.model_validate(places.data)
    except ValidationError as error:
        raise explain(error, Scenario, places.data, places.of_path) from None
    except RecursionError:
        raise InputError("nested too deeply", where=places.document.label or None) from None
