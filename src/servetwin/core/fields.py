"""Reading small files of facts strictly: a mapping whose keys are taken one by one, each with its type checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from servetwin.core.errors import InputError, unknown_name

_MISSING = object()


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, in C where PyYAML has it; ``1e9`` and ``1.2e3`` are numbers, as in YAML 1.2."""


_EXPONENT = re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def read_document(path: Path) -> object:
    """Return the content of a JSON (``.json``) or YAML file as plain Python values.

    Raises
    ------
    InputError
        If the file cannot be read or parsed; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None
    try:
        return json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"not valid YAML: {error.problem}", where=f"{path}{line}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"not valid: {error}", where=str(path)) from None


class Fields:
    """A mapping that is read key by key.

    Parameters
    ----------
    data
        What was read; anything but a mapping is an error.
    where
        The place, for messages: a file, or a file and the key that holds this mapping.
    """

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise InputError(f"expected a mapping of keys to values, got {_shown(data)}", where=where)
        self.where = where
        self._data: Mapping[Any, Any] = data
        self._taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        self._taken.add(key)
        return self._data.get(key) is not None

    def text(self, key: str, default: object = _MISSING) -> str:
        """Return a non-empty text."""
        value = self._take(key, default)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, f"must be a text, got {_shown(value)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, empty where the key is absent."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"must be a list of texts, got {_shown(value)}")
        return tuple(value)

    def flag(self, key: str, default: object = _MISSING) -> bool:
        """Return true or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, got {_shown(value)}")
        return value

    def integer(self, key: str, default: object = _MISSING) -> int:
        """Return a whole number of at least 1."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**53:
            raise self.error(key, f"must be a whole number of at least 1, got {_shown(value)}")
        return value

    def number(self, key: str, default: object = _MISSING) -> float:
        """Return a finite number above 0."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.error(key, f"must be a number above 0, got {_shown(value)}")
        return float(value)

    def child(self, key: str) -> Fields:
        """Return the mapping under ``key``; an empty one where the key is absent."""
        return Fields(self._take(key, {}), f"{self.where}: {key}")

    def raw(self, key: str) -> object:
        """Return the value under ``key`` as it was read."""
        return self._take(key, _MISSING)

    def raw_or_none(self, key: str) -> object:
        """Return the value under ``key`` as it was read, or None where the key is absent."""
        self._taken.add(key)
        return self._data.get(key)

    def __iter__(self) -> Iterator[str]:
        return (str(key) for key in self._data)

    def refuse_others(self, allowed: Iterable[str] = ()) -> None:
        """Raise for a key that was never asked for and is not allowed: a misspelt key must not be ignored."""
        known = self._taken.union(allowed)
        for key in self._data:
            if key not in known:
                raise unknown_name("key", key, known, where=self.where)

    def error(self, key: str, problem: str) -> InputError:
        """Return the error that says what is wrong with ``key``."""
        return InputError(f"{key} {problem}", where=self.where)

    def _take(self, key: str, default: object) -> Any:
        self._taken.add(key)
        value = self._data.get(key)
        if value is not None:
            return value
        if default is _MISSING:
            raise self.error(key, "is missing")
        return default


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
