"""The words of the scenario's reference page: types, defaults and meanings, read from the schema itself."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "name"}

_BOUNDS = ((annotated_types.Ge, "ge", "≥"), (annotated_types.Gt, "gt", ">"), (annotated_types.Le, "le", "≤"))


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that an annotation names, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for argument in get_args(annotation):
        if get_origin(annotation) is not Literal:
            yield from models_in(argument)


def type_text(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """Return what may be written for a field."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0], arguments[1:] + metadata)
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin in (Union, UnionType):
        parts = [type_text(argument) for argument in arguments if argument is not type(None)]
        return " or ".join(dict.fromkeys(parts)) + _bounds(metadata)
    if origin in (tuple, list):
        return f"list of {type_text(arguments[0]).replace('mapping', 'mappings')}"
    if origin is dict:
        return f"mapping of {type_text(arguments[0])} to {type_text(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _kind_of(annotation) or "mapping"
    if origin is Mapping:
        return "mapping"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation))) + _bounds(metadata)


def _kind_of(model: type[BaseModel]) -> str:
    """Return ``{kind: ...}`` for a member of a union of kinds."""
    kind = model.model_fields.get("kind")
    values = get_args(kind.annotation) if kind is not None and get_origin(kind.annotation) is Literal else ()
    return f"`{{kind: {values[0]}}}`" if values else ""


def _bounds(metadata: tuple[Any, ...]) -> str:
    flat: list[Any] = []
    for item in metadata:
        flat += item.metadata if isinstance(item, FieldInfo) else [item]
    said = [
        f"{sign} {_short(getattr(item, name))}"
        for kind, name, sign in _BOUNDS
        for item in flat
        if isinstance(item, kind)
    ]
    return f", {', '.join(said)}" if said else ""


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def default_text(field: FieldInfo) -> str:
    """Return a field's default as YAML would write it; models stand for the mapping of their own defaults."""
    if field.is_required():
        return "required"
    value = field.default
    if value is PydanticUndefined or value is None:
        return "–"
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json", exclude_defaults=True)
        return f"`{json.dumps(given)}`" if given else "its defaults"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return what each field means: its description, else the text under "Attributes" in the class's docstring."""
    found = dict(_attributes(model))
    return {name: field.description or found.get(name, "") for name, field in model.model_fields.items()}


def summary_of(documented: object) -> str:
    """Return the text of a docstring before its first headed section."""
    text = re.split(r"\n\n\w+\n-{4,}", _docstring(documented))[0]
    return " ".join(text.split()).replace("``", "`")


def _docstring(documented: object) -> str:
    """Return a docstring without its indentation (which Python 3.13 strips itself)."""
    return inspect.cleandoc(documented.__doc__ or "")


def _attributes(documented: object) -> Iterator[tuple[str, str]]:
    """Yield name and text of the entries of a NumPy-style section "Attributes" or "Parameters"."""
    heading = r"^(?:Attributes|Parameters)\n-+\n(.*?)(?=\n\n\w+\n-+\n|\Z)"
    section = re.search(heading, _docstring(documented), re.S | re.M)
    for entry in re.finditer(r"^(\w[\w, ]*)\n((?:^(?: {4}.*)?\n?)+)", section[1] if section else "", re.M):
        for name in entry[1].split(","):
            yield name.strip(), " ".join(entry[2].split()).replace("``", "`")


def parameter_meanings(factory: object) -> dict[str, str]:
    """Return what each parameter of a factory means, by its docstring."""
    return dict(_attributes(factory))
