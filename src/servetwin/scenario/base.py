"""What all parts of the schema share: strict reading, and implementations given from Python instead of by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from servetwin.workload.schema import Options

__all__ = [
    "AS_NAME",
    "POOL_NAME",
    "Microseconds",
    "Options",
    "PluginOptions",
    "Seconds",
    "Tokens",
    "describe",
    "implementation",
    "pool_name",
    "wrapped",
]

Seconds = Annotated[float, Field(ge=0, le=1e9)]
Microseconds = Annotated[float, Field(ge=0, le=1e12)]
Tokens = Annotated[int, Field(ge=1, le=2**31 - 1)]

POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def pool_name(value: str) -> str:
    """Check the name of a pool: it stands in paths (``--set cluster.NAME.replicas=2``) and in names of instances."""
    if not POOL_NAME.fullmatch(value):
        raise PydanticCustomError(
            "pool_name", "should be letters of a to z, digits, - and _, at most 100, with a letter or digit first"
        )
    return value


class PluginOptions(Options):
    """A part that names an implementation; keys beyond the known ones are options of that implementation."""

    model_config = ConfigDict(extra="allow")

    @property
    def extra(self) -> dict[str, Any]:
        """The options of the implementation, as given."""
        return dict(self.model_extra or {})


def describe(value: object) -> object:
    """Return what stands in a file for an implementation that was given from Python."""
    kind = type(value)
    return value if isinstance(value, str) else f"python:{kind.__module__}.{kind.__qualname__}"


def implementation(method: str, kind: str) -> BeforeValidator:
    """Return the check of a field that takes a registered name, or (from Python) an object with ``method``."""

    def check(value: object) -> object:
        if isinstance(value, str) or callable(getattr(value, method, None)):
            return value
        raise PydanticCustomError(
            "implementation",
            "should be the name of a {kind} (from Python: an object with a method {method})",
            {"kind": kind, "method": method},
        )

    return BeforeValidator(check)


AS_NAME = PlainSerializer(describe, when_used="json")


def wrapped(key: str) -> Callable[[Any], Any]:
    """Return a before-validator that reads ``x`` as ``{key: x}`` unless it is a mapping or options already."""

    def wrap(value: Any) -> Any:
        return value if isinstance(value, dict | BaseModel) else {key: value}

    return wrap
