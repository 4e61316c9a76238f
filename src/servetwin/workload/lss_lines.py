"""The lines of LLMServingSim's workload files, read strictly."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from pydantic_core import from_json

from servetwin.core.errors import InputError, unknown_name
from servetwin.workload.files import read_text
from servetwin.workload.limits import MAX_NS, MAX_TOKENS

_LABELS = frozenset({"request_id", "model", "priority"})
_LENGTHS = frozenset({"input_toks", "output_toks", "input_tok_ids", "output_tok_ids"})
_FLAT = _LENGTHS | _LABELS | {"arrival_time_ns", "session_id"}
_SESSION = frozenset({"arrival_time_ns", "session_id", "sub_requests", "model", "priority"})
_SUB_REQUEST = _LENGTHS | _LABELS | {"tool_duration_ns"}

_MAX_TOKEN_ID = 2**31 - 1
_MAX_PRIORITY = 2**31 - 1

_NO_TOKENS = array("i")

Record = dict[str, Any]


@dataclass(slots=True)
class Request:
    """One request as read; ``tokens`` are the known ones from the start of the prompt on."""

    prompt_tokens: int
    output_tokens: int
    tokens: array[int]
    request_id: str | None
    model: str | None
    priority: int | None
    tool_duration_ns: int


@dataclass(slots=True)
class Item:
    """One line: a request, or a session of at least one."""

    line: int
    arrival_ns: int
    session_id: str | None
    requests: list[Request]


class LineReader:
    """Reads the lines of one file.

    Parameters
    ----------
    path
        The file, for reading and for error messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decoder = json.JSONDecoder(parse_constant=_refuse_constant)
        self._session_lines: dict[str, int] = {}
        self._request_lines: dict[str, str] = {}
        self._empty_sessions: list[int] = []
        self._useless_outputs = 0

    def read(self, limit: int | None) -> list[Item]:
        """Return the items of the first ``limit`` lines that are not blank.

        Raises
        ------
        InputError
            At the first line that is wrong.
        """
        items = []
        for line, record in islice(self._records(), limit):
            where = f"{self._path}:{line}"
            item = self._session(record, line, where) if "sub_requests" in record else self._flat(record, line, where)
            if item.requests:
                items.append(item)
            else:
                self._empty_sessions.append(line)
        return items

    def notices(self) -> list[str]:
        """Return what a reader of the result should know about the file."""
        notices = []
        if self._empty_sessions:
            lines = ", ".join(map(str, self._empty_sessions[:5]))
            notices.append(
                f"{self._path}: {len(self._empty_sessions)} sessions without requests skipped (line {lines})"
            )
        if self._useless_outputs:
            notices.append(
                f"{self._path}: {self._useless_outputs} requests have output_tok_ids without input_tok_ids; "
                "what they share with others is not known"
            )
        return notices

    def _records(self) -> Iterator[tuple[int, Record]]:
        rows = read_text(self._path).split("\n")
        for line, row in enumerate(rows, start=1):
            if row and not row.isspace():
                yield line, self._decode(row, f"{self._path}:{line}", is_end=line == len(rows))

    def _decode(self, row: str, where: str, *, is_end: bool) -> Record:
        """Decode a line, fast if it is plainly right; else the careful decoder says what is wrong."""
        try:
            record = from_json(row, allow_inf_nan=False)
        except ValueError:
            record = self._decode_carefully(row, where, is_end=is_end)
        if not isinstance(record, dict):
            raise InputError(f"a line must be a JSON object, not {_shown(record)}", where=where)
        return record

    def _decode_carefully(self, row: str, where: str, *, is_end: bool) -> object:
        try:
            return self._decoder.decode(row)
        except _ConstantError as error:
            raise InputError(f"{error} is no number that a workload can have", where=where) from None
        except json.JSONDecodeError as error:
            hint = "; the file ends here without a line break: was it cut off?" if is_end else ""
            message = f"not a JSON object on one line ({error.msg}, column {error.colno}){hint}"
            raise InputError(message, where=where) from None
        except (RecursionError, ValueError) as error:  # nested too deep; a number of thousands of digits
            raise InputError(f"not a request or a session ({error})", where=where) from None

    def _flat(self, record: Record, line: int, where: str) -> Item:
        _check_keys(record, _FLAT, where)
        arrival_ns = _integer(record, "arrival_time_ns", 0, MAX_NS, where)
        request = self._request(record, where, _label(record, "model", where), _priority(record, where))
        return Item(line, arrival_ns, _label(record, "session_id", where), [request])

    def _session(self, record: Record, line: int, where: str) -> Item:
        _check_keys(record, _SESSION, where)
        name = _label(record, "session_id", where) or f"session_{len(self._session_lines)}"
        if name in self._session_lines:
            message = f"session_id {name!r} is taken by line {self._session_lines[name]}; each session needs its own"
            raise InputError(message, where=where)
        self._session_lines[name] = line
        parts = record["sub_requests"]
        if not isinstance(parts, list):
            raise InputError(f"sub_requests must be a list of requests, not {_shown(parts)}", where=where)
        arrival_ns = _integer(record, "arrival_time_ns", 0, MAX_NS, where)
        model, priority = _label(record, "model", where), _priority(record, where)
        requests = [self._part(part, f"{where}: sub_requests[{i}]", model, priority) for i, part in enumerate(parts)]
        return Item(line, arrival_ns, name, requests)

    def _part(self, part: object, where: str, model: str | None, priority: int | None) -> Request:
        """Read a request of a session; the session's model and priority hold where it has none."""
        if not isinstance(part, dict):
            raise InputError(f"must be a JSON object, not {_shown(part)}", where=where)
        _check_keys(part, _SUB_REQUEST, where)
        own = _priority(part, where)
        return self._request(part, where, _label(part, "model", where) or model, priority if own is None else own)

    def _request(self, record: Record, where: str, model: str | None, priority: int | None) -> Request:
        prompt = _integer(record, "input_toks", 1, MAX_TOKENS, where)
        output = _integer(record, "output_toks", 1, MAX_TOKENS, where)
        tool_ns = _integer(record, "tool_duration_ns", 0, MAX_NS, where) if "tool_duration_ns" in record else 0
        name = _label(record, "request_id", where)
        if name is not None and self._request_lines.setdefault(name, where) is not where:
            raise InputError(f"request_id {name!r} is taken by {self._request_lines[name]}", where=where)
        return Request(prompt, output, self._tokens(record, prompt, output, where), name, model, priority, tool_ns)

    def _tokens(self, record: Record, prompt: int, output: int, where: str) -> array[int]:
        prompt_ids = _token_ids(record, "input_tok_ids", "input_toks", prompt, where)
        output_ids = _token_ids(record, "output_tok_ids", "output_toks", output, where)
        if prompt_ids is None:
            self._useless_outputs += output_ids is not None
            return _NO_TOKENS
        return prompt_ids if output_ids is None else prompt_ids + output_ids


class _ConstantError(Exception):
    """JSON text has NaN or Infinity."""


def _refuse_constant(name: str) -> NoReturn:
    raise _ConstantError(name)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _check_keys(record: Record, allowed: frozenset[str], where: str) -> None:
    if not record.keys() <= allowed:
        raise unknown_name("key", next(key for key in record if key not in allowed), allowed, where=where)


def _integer(record: Record, key: str, low: int, high: int, where: str) -> int:
    """Return ``record[key]``, which must be a whole number of ``low`` to ``high``."""
    if key not in record:
        raise InputError(f"{key} is missing; it must be a whole number of {low} to {high}", where=where)
    value = record[key]
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"{key} is {_shown(value)}; allowed: whole numbers of {low} to {high}", where=where)
    return value


def _priority(record: Record, where: str) -> int | None:
    return _integer(record, "priority", -_MAX_PRIORITY, _MAX_PRIORITY, where) if "priority" in record else None


def _label(record: Record, key: str, where: str) -> str | None:
    """Return an optional name."""
    value = record.get(key)
    if value is not None and (type(value) is not str or not value):
        raise InputError(f"{key} is {_shown(value)}; it must be a text that is not empty", where=where)
    return value


def _token_ids(record: Record, key: str, length_key: str, length: int, where: str) -> array[int] | None:
    """Return an optional list of token ids, as many as the request says it has tokens."""
    ids = record.get(key)
    if ids is None:
        return None
    if not isinstance(ids, list):
        raise InputError(f"{key} must be a list of token ids, not {_shown(ids)}", where=where)
    if len(ids) != length:
        raise InputError(f"{key} has {len(ids)} tokens, but {length_key} is {length}; they must agree", where=where)
    try:
        tokens = array("i", ids)
        least = int(np.frombuffer(tokens, dtype=np.int32).min())
    except (TypeError, OverflowError):
        tokens, least = None, -1
    if tokens is None or least < 0 or (least <= 1 and set(map(type, ids)) != {int}):  # true and false count as 1 and 0
        wrong = next(value for value in ids if type(value) is not int or not 0 <= value <= _MAX_TOKEN_ID)
        raise InputError(f"{key} has {_shown(wrong)}; allowed: whole numbers of 0 to {_MAX_TOKEN_ID}", where=where)
    return tokens
