"""Strict reading of JSON objects: every key is read, checked, or refused by its path."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servetwin.core.errors import InputError, unknown_name


def load_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Raises
    ------
    InputError
        If the file cannot be read, is not JSON (the message has the line) or is not an object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from error
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InputError(f"is not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    except ValueError as error:
        raise InputError(str(error), where=str(path)) from error
    if not isinstance(data, dict):
        raise InputError(f"a JSON object is needed, found {type(data).__name__}", where=str(path))
    return data


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number that can be simulated; give a finite one")


class ObjectReader:
    """One JSON object whose keys are taken one by one; ``finish`` refuses what nobody took.

    Parameters
    ----------
    data
        The object (anything else is an error).
    where
        The file and the path of the object in it, for messages.
    top
        Whether it is the file's own object.
    """

    def __init__(self, data: object, where: str, *, top: bool = False) -> None:
        if not isinstance(data, Mapping):
            raise InputError(f"an object is needed, found {data!r}", where=where)
        self._data = data
        self.where = where
        self._separator = ": " if top else "."
        self._known: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def path(self, key: str) -> str:
        """Return the place of ``key``, for messages."""
        return f"{self.where}{self._separator}{key}"

    def raw(self, key: str, default: object = None) -> Any:
        """Return the value of ``key`` as it stands, or ``default`` where it is absent."""
        self._known.add(key)
        return self._data.get(key, default)

    def required(self, key: str) -> Any:
        """Return the value of a key that has to be there."""
        if key not in self._data:
            raise InputError(f"key {key!r} is missing", where=self.where)
        return self.raw(key)

    def number(self, key: str, default: float | None = None, *, minimum: float = 0.0, positive: bool = False) -> float:
        """Return a finite number of at least ``minimum`` (above 0 if ``positive``); required without a default."""
        value = self.required(key) if default is None else self.raw(key, default)
        return checked_number(value, self.path(key), minimum=minimum, positive=positive)

    def integer(self, key: str, default: int | None = None, *, minimum: int = 0) -> int:
        """Return a whole number of at least ``minimum``; required without a default."""
        value = self.required(key) if default is None else self.raw(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise InputError(f"a whole number of at least {minimum} is needed, found {value!r}", where=self.path(key))
        return value

    def text(self, key: str) -> str:
        """Return a text that is not empty; required."""
        value = self.required(key)
        if not isinstance(value, str) or not value:
            raise InputError(f"a text is needed, found {value!r}", where=self.path(key))
        return value

    def flag(self, key: str) -> bool | None:
        """Return true, false, or None where the key is absent."""
        value = self.raw(key)
        if value is not None and not isinstance(value, bool):
            raise InputError(f"true or false is needed, found {value!r}", where=self.path(key))
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> str | None:
        """Return one of ``allowed``, or None where the key is absent or null."""
        value = self.raw(key)
        if value is not None and value not in allowed:
            raise unknown_name("value", value, allowed, where=self.path(key))
        return value if value is None else str(value)

    def objects(self, key: str) -> list[tuple[str, object]]:
        """Return the items of a list that has to be there, each with its place."""
        value = self.required(key)
        if not isinstance(value, list) or not value:
            raise InputError(f"a list with at least one item is needed, found {value!r}", where=self.path(key))
        return [(f"{self.path(key)}[{i}]", item) for i, item in enumerate(value)]

    def finish(self) -> None:
        """Refuse keys that nobody took, with the nearest name that exists."""
        for key in self._data:
            if key not in self._known:
                raise unknown_name("key", key, self._known, where=self.where)


def checked_number(value: object, where: str, *, minimum: float = 0.0, positive: bool = False) -> float:
    """Return ``value`` as a finite float of at least ``minimum`` (above 0 if ``positive``)."""
    allowed = "a finite number above 0" if positive else f"a finite number of at least {minimum:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{allowed} is needed, found {value!r}", where=where)
    number = float(value)
    if not math.isfinite(number) or number < minimum or (positive and number <= 0):
        raise InputError(f"{allowed} is needed, found {value!r}", where=where)
    return number
