"""Edits of a scenario from outside: ``--set path.to.key=value`` and ``--vary path=a,b,c``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from servetwin.core.errors import InputError, unknown_name
from servetwin.scenario.yaml_source import KeyPath, parse_value, parse_values


def split_assignment(text: str, option: str) -> tuple[str, str]:
    """Split ``path=value`` at the first equals sign.

    Raises
    ------
    InputError
        If there is no path or no equals sign; ``option`` names the place in the message.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip() or any(not part for part in path.strip().split(".")):
        raise InputError(
            f"given {text!r}; write path.to.key=value, for example cluster.chat.engine.max_num_seqs=128", where=option
        )
    return path.strip(), value.strip()


def parse_edits(assignments: Iterable[str], option: str) -> dict[str, Any]:
    """Return the values of ``path=value`` texts by path; a later one wins."""
    pairs = (split_assignment(text, option) for text in assignments)
    return {path: parse_value(value, f"{option} {path}") for path, value in pairs}


def parse_variations(assignments: Iterable[str], option: str) -> dict[str, list[Any]]:
    """Return the list of values of each ``path=a,b,c``.

    Raises
    ------
    InputError
        If a path is given twice or has no values.
    """
    variations: dict[str, list[Any]] = {}
    for text in assignments:
        path, values = split_assignment(text, option)
        if path in variations:
            raise InputError(f"{path} is varied twice; give all its values at once", where=option)
        variations[path] = parse_values(values, f"{option} {path}")
    return variations


def apply_edits(data: Any, edits: dict[str, Any], option: str) -> tuple[Any, dict[KeyPath, str]]:
    """Return a copy of ``data`` with the edits made, and the label of each place that was edited."""
    edited = _copy(data)
    places: dict[KeyPath, str] = {}
    for path, value in edits.items():
        label = f"{option} {path}"
        places[_set(edited, path.split("."), value, label)] = label
    return edited, places


def _copy(data: Any) -> Any:
    """Copy mappings and lists, and nothing that stands in them (a router given from Python stays itself)."""
    if isinstance(data, dict):
        return {key: _copy(value) for key, value in data.items()}
    return [_copy(value) for value in data] if isinstance(data, list | tuple) else data


def _set(data: Any, parts: list[str], value: Any, label: str) -> KeyPath:
    """Set one value in place; mappings on the way are made, items of lists are found by name or number."""
    walked: list[str | int] = []
    current = data
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(current, dict):
            walked.append(part)
            if last:
                current[part] = value
            elif current.get(part) is None:
                current[part] = {}
            current = current[part]
        elif isinstance(current, list):
            index = _item(current, part, label)
            walked.append(index)
            if last:
                current[index] = value
            current = current[index]
        else:
            above = ".".join(parts[:i]) or "the scenario"
            raise InputError(f"{above} is {current!r} and holds no keys; set {above} itself", where=label)
    return tuple(walked)


def _item(items: list[Any], part: str, label: str) -> int:
    """Return the position of a list's item, by its name (a pool's) or its number."""
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    known = [str(name) for name in names if name is not None] or [str(i) for i in range(len(items))]
    raise unknown_name("item", part, known, where=label)


def find_path(data: Any, parts: list[str]) -> KeyPath:
    """Return the path in the data of a dotted key whose list items are names or numbers, as far as the data has it."""
    path: list[str | int] = []
    for part in parts:
        if isinstance(data, list):
            try:
                path.append(_item(data, part, ""))
            except InputError:
                break
        elif isinstance(data, dict) and part in data:
            path.append(part)
        else:
            break
        data = data[path[-1]]
    return tuple(path)
