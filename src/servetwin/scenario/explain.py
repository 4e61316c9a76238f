"""Turns what pydantic found wrong into one `InputError`: file and line, key's path, what was given, what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from servetwin.core.errors import InputError
from servetwin.scenario.base import POOL_NAME
from servetwin.scenario.wording import in_plain_words
from servetwin.scenario.yaml_source import KeyPath

MOST_SHOWN = 10
"""Errors shown at once."""

_LITERALS = {None: "nothing (null)", True: "true", False: "false"}
"""Values as YAML writes them, where Python writes them otherwise."""


def explain(
    error: ValidationError, root: type[BaseModel], data: object, where: Callable[[KeyPath], str | None]
) -> InputError:
    """Return the error to raise.

    Parameters
    ----------
    error
        What pydantic raised.
    root
        The model that was validated.
    data
        What it was given.
    where
        Turns a key's path into the place of that key, outermost first ("scenario.yaml:12"), or None.
    """
    lines: list[str] = []
    for details in error.errors(include_url=False):
        path = data_path(details["loc"], data, details["type"])
        if details["type"] == "union_tag_invalid":
            path = (*path, _discriminator(details))
        line = f"{_place(path, data, where)}{_message(details, root)}"
        if line not in lines:
            lines.append(line)
    more = len(lines) - MOST_SHOWN
    shown = lines[:MOST_SHOWN] + ([f"... and {more} more"] if more > 0 else [])
    return InputError("\n".join(shown))


def data_path(loc: Sequence[str | int], data: object, kind: str = "") -> KeyPath:
    """Return the path of an error in the data: pydantic's location without the tags of unions."""
    path: list[str | int] = []
    current = data
    for i, part in enumerate(loc):
        step = _step_into(current, part)
        if step is not None:
            path.append(part)
            current = step[0]
        elif i == len(loc) - 1 and kind == "missing":
            path.append(part)
    return tuple(path)


def _step_into(current: object, part: str | int) -> tuple[object] | None:
    if isinstance(current, Mapping) and part in current:
        return (current[part],)
    if isinstance(current, list | tuple) and isinstance(part, int) and part < len(current):
        return (current[part],)
    if isinstance(current, BaseModel) and isinstance(part, str) and part in type(current).model_fields:
        return (getattr(current, part),)
    return None


def dotted(path: KeyPath, data: object) -> str:
    """Return a path as text, with the name of a list's item (a pool) where it has one."""
    words: list[str] = []
    current = data
    for part in path:
        step = _step_into(current, part)
        current = step[0] if step else None
        name = _step_into(current, "name") if isinstance(part, int) else None
        words.append(str(name[0]) if name and _is_name(name[0]) else str(part))
    return ".".join(words)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and POOL_NAME.fullmatch(value) is not None


def _place(path: KeyPath, data: object, where: Callable[[KeyPath], str | None]) -> str:
    place, key = where(path), dotted(path, data)
    parts = [place] if place and place.endswith(f" {key}") else [place, key]
    return "".join(f"{part}: " for part in parts if part)


def _discriminator(details: ErrorDetails) -> str:
    """Return the key whose value chooses a member of a union."""
    return str(details["ctx"]["discriminator"]).strip("'")


def _message(details: ErrorDetails, root: type[BaseModel]) -> str:
    kind, loc, given, context = details["type"], details["loc"], details["input"], details.get("ctx") or {}
    if kind == "extra_forbidden":
        known = sorted({key for model in _models_at(root, loc[:-1]) for key in model.model_fields})
        return f"unknown key {loc[-1]!r}{_nearest(loc[-1], known)} Allowed: {', '.join(known)}"
    if kind == "missing":
        return "is missing"
    message = in_plain_words(details)
    expected = context.get("expected_tags") or (context.get("expected") if kind == "literal_error" else None)
    if kind == "union_tag_invalid":
        given, message = context["tag"], f"should be one of {expected}"
    known = [word.strip("'") for word in str(expected).replace(" or ", ", ").split(", ")] if expected else []
    near = _nearest(given, known) if len(known) > 1 else ""
    if isinstance(given, Mapping | BaseModel) and kind not in ("string_type", "union_tag_not_found"):
        return message + near
    return f"given {shorten(given)}: {message}{near}"


def shorten(value: object, length: int = 80) -> str:
    """Return a value's text, cut where it is long."""
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(str, list(value)[:8]))}" if value else "an empty mapping"
    text = _LITERALS.get(value, "") if value is None or isinstance(value, bool) else ""
    text = text or repr(value)
    return text if len(text) <= length else f"{text[:length]}..."


def _nearest(given: object, known: list[str]) -> str:
    near = get_close_matches(str(given), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else "."


def _models_at(root: type[BaseModel], loc: Sequence[str | int]) -> list[type[BaseModel]]:
    """Return the models that may stand at a location (several where a union allows them)."""
    models = [root]
    for part in loc:
        if isinstance(part, int):
            continue
        fields = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        models = [found for field in fields for found in _models_in(field)] if fields else _tagged(models, part)
    return models


def _tagged(models: list[type[BaseModel]], tag: str) -> list[type[BaseModel]]:
    """Return the members of a union that a tag of pydantic's location (a literal, or a class's name) chooses."""
    chosen = [
        model
        for model in models
        if model.__name__ == tag
        or any(
            get_origin(field.annotation) is Literal and tag in get_args(field.annotation)
            for field in model.model_fields.values()
        )
    ]
    return chosen or models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from _models_in(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType, list, tuple, dict):
        for argument in get_args(annotation):
            yield from _models_in(argument)
