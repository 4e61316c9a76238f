"""Strict reading of trace records: objects of JSON, and their values, with the place in every error."""

from __future__ import annotations

import json
import math
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from servetwin.core.errors import InputError, unknown_name

Record = dict[str, Any]

MAX_ID = 2**32 - 1
"""Greatest id of a hash."""


def decode(text: str | bytes, where: str) -> Record:
    """Return the JSON object in ``text``.

    Raises
    ------
    InputError
        If it is no JSON object, or has NaN or infinities.
    """
    try:
        record = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InputError(f"not a JSON object ({error}); was the file cut off?", where=where) from None
    if not isinstance(record, dict):
        raise InputError(f"must be a JSON object, not {shown(record)}", where=where)
    return record


def shown(value: object) -> str:
    """Return a value as JSON, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def integer(record: Record, key: str, low: int, high: int, where: str) -> int:
    """Return ``record[key]``, which must be a whole number of ``low`` to ``high``.

    Raises
    ------
    InputError
        If it is missing or another thing.
    """
    if key not in record:
        raise InputError(f"{key} is missing; it must be a whole number of {low} to {high}", where=where)
    value = record[key]
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"{key} is {shown(value)}; allowed: whole numbers of {low} to {high}", where=where)
    return value


def seconds(record: Record, key: str, most: float, where: str) -> float:
    """Return ``record[key]``, which must be a number of seconds from 0 to ``most``.

    Raises
    ------
    InputError
        If it is missing or another thing.
    """
    if key not in record:
        raise InputError(f"{key} is missing; it must be a number of seconds", where=where)
    value = record[key]
    if type(value) not in (int, float) or not (math.isfinite(value) and 0 <= value <= most):
        raise InputError(f"{key} is {shown(value)}; allowed: 0 to {most:g} seconds", where=where)
    return float(value)


def hash_ids(record: Record, chunks: int, rule: str, where: str) -> NDArray[np.int64]:
    """Return ``record["hash_ids"]``, which must be ``chunks`` ids, shape ``(chunks,)``.

    Raises
    ------
    InputError
        If it is no list of so many ids; ``rule`` says why so many.
    """
    ids = record.get("hash_ids")
    if not isinstance(ids, list):
        raise InputError(f"hash_ids must be a list of ids, not {shown(ids)}", where=where)
    if len(ids) != chunks:
        raise InputError(f"hash_ids has {len(ids)} ids; allowed: {chunks}, {rule}", where=where)
    try:
        values = np.frombuffer(array("q", ids), dtype=np.int64)
    except (TypeError, OverflowError):
        values = None
    if values is not None and (not chunks or (int(values.min()) >= 0 and int(values.max()) <= MAX_ID)):
        small = np.flatnonzero(values <= 1)  # true and false count as 1 and 0
        if all(type(ids[place]) is int for place in small.tolist()):
            return values
    wrong = next(value for value in ids if type(value) is not int or not 0 <= value <= MAX_ID)
    raise InputError(f"hash_ids has {shown(wrong)}; allowed: whole numbers of 0 to {MAX_ID}", where=where)


def check_keys(record: Record, allowed: frozenset[str], where: str) -> None:
    """Refuse a key that the format does not have.

    Raises
    ------
    InputError
        With the nearest key that it has.
    """
    if not record.keys() <= allowed:
        raise unknown_name("key", next(key for key in record if key not in allowed), allowed, where=where)
