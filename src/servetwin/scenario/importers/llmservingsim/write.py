"""An imported scenario as a YAML file."""

from __future__ import annotations

from pathlib import Path

import yaml

from servetwin.core.errors import InputError
from servetwin.scenario.importers.llmservingsim.build import ImportedScenario, LssSource, import_scenario
from servetwin.scenario.importers.llmservingsim.copies import copy_files


def write_scenario(source: LssSource, path: Path, *, force: bool = False, copy: bool = False) -> ImportedScenario:
    """Import, check and write a scenario file; a file that stands there is overwritten only with ``force``.

    With ``copy`` profiles, workload and model files are copied beside it; else it refers to them where they are.

    Raises
    ------
    InputError
        As `import_scenario` and the scenario's own reader do, and if the file exists or cannot be written.
    """
    if path.exists() and not force:
        raise InputError("there is a file already; choose another name, or --force to overwrite it", where=str(path))
    imported = import_scenario(source, path.resolve().parent)
    if copy:
        copy_files(imported.data, path.resolve())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_yaml(imported, source), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from error
    return imported


def to_yaml(imported: ImportedScenario, source: LssSource) -> str:
    """Return the file's text: what it was made from, what to know, the scenario."""
    lines = [
        f"Imported from LLMServingSim: {source.cluster.name}, {source.workload.name}; mode {source.mode}.",
        *imported.notices,
    ]
    header = "".join(f"# {line}\n" for line in lines)
    return header + yaml.safe_dump(imported.data, sort_keys=False, width=110, allow_unicode=True)
