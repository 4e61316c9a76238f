"""Strict and fast reading of CSV tables of counts and times; every error names the file and the line."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError, unknown_name

MAX_COUNT = 2**31
MAX_TIME_NS = 1e15


@dataclass(frozen=True, slots=True)
class Column:
    """One column: a name, and what its values may be.

    ``"text"``: any non-empty text. ``"count"``: a whole number from ``minimum``. ``"us"`` and ``"ns"``: a time,
    returned in nanoseconds. ``"number"``: any finite number.
    """

    name: str
    kind: Literal["text", "count", "us", "ns", "number"]
    minimum: int = 0


class Table:
    """The columns of one file, by name, each an array with one entry per row; ``lines`` are their line numbers."""

    def __init__(self, path: Path, columns: dict[str, NDArray[Any]], lines: NDArray[np.int64]) -> None:
        self.path = path
        self.columns = columns
        self.lines = lines

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """Return ``file:line`` of a row."""
        return f"{self.path}:{int(self.lines[row])}"

    def check_distinct(self, *names: str) -> None:
        """Raise an InputError if two rows agree in all of ``names``."""
        keys = [self.columns[name] for name in names]
        order = np.lexsort(keys[::-1])
        same = np.ones(max(0, len(self) - 1), dtype=bool)
        for key in keys:
            same &= key[order[1:]] == key[order[:-1]]
        if same.any():
            at = int(np.argmax(same))
            first, second = sorted((int(order[at]), int(order[at + 1])))
            values = ", ".join(f"{name} {self.columns[name][second]}" for name in names)
            message = f"a second row for {values} (the first is in line {int(self.lines[first])}); keep one of them"
            raise InputError(message, where=self.where(second))


def read_table(path: Path, columns: Sequence[Column], *, extra: bool = False) -> Table:
    """Read a CSV file with a header line.

    Parameters
    ----------
    path
        The file; comma-separated, UTF-8.
    columns
        The columns that it must have, in any order.
    extra
        Whether further columns are allowed (and left alone).

    Raises
    ------
    InputError
        For a file, a column or a value that is missing or wrong, and for a file without rows.
    """
    text = _read(path)
    header, _, body = text.partition("\n")
    places = _places(path, [name.strip() for name in header.split(",")], columns, extra)
    table = _read_fast(path, body, columns, places, header.count(",") + 1)
    return table if table is not None else _read_checked(path, text, columns, places)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None


def _places(path: Path, names: list[str], columns: Sequence[Column], extra: bool) -> list[int]:
    wanted = [column.name for column in columns]
    where = f"{path}:1"
    for name in wanted:
        if names.count(name) != 1:
            problem = "is missing" if name not in names else "is there twice"
            raise InputError(f"column {name!r} {problem}; the file must have {', '.join(wanted)}", where=where)
    unknown = [name for name in names if name not in wanted]
    if unknown and not extra:
        raise unknown_name("column", unknown[0], wanted, where=where)
    return [names.index(name) for name in wanted]


def _read_fast(path: Path, body: str, columns: Sequence[Column], places: list[int], width: int) -> Table | None:
    """Return the table if every value is plainly right, else None: the slow reader then finds what is wrong."""
    if not body.strip() or '"' in body or "\n\n" in body or "\r" in body:
        return None
    read = _texts if any(column.kind == "text" for column in columns) else _numbers
    raw = read(body, places, width)
    if raw is None or not len(raw[0]):
        return None
    values: dict[str, NDArray[Any]] = {}
    for column, entries in zip(columns, raw, strict=True):
        converted = _converted(column, entries)
        if converted is None:
            return None
        values[column.name] = converted
    return Table(path, values, np.arange(2, len(raw[0]) + 2))


def _numbers(body: str, places: list[int], width: int) -> list[NDArray[Any]] | None:
    try:
        rows = np.loadtxt(io.StringIO(body), delimiter=",", ndmin=2, comments=None)
    except ValueError:
        return None
    return [rows[:, place] for place in places] if rows.shape[1] == width else None


def _texts(body: str, places: list[int], width: int) -> list[NDArray[Any]] | None:
    lines = body.removesuffix("\n").split("\n")
    if any(line.count(",") != width - 1 for line in lines):
        return None
    cells = ",".join(lines).split(",")
    return [np.array(cells[place::width], dtype=object) for place in places]


def _converted(column: Column, entries: NDArray[Any]) -> NDArray[Any] | None:
    if column.kind == "text":
        return entries if bool(np.all(entries != "")) else None
    try:
        numbers = np.fromiter(map(float, entries), np.float64, len(entries)) if entries.dtype == object else entries
    except ValueError:
        return None
    if not bool(np.all(np.isfinite(numbers))):
        return None
    if column.kind == "count":
        right = (numbers >= column.minimum) & (numbers <= MAX_COUNT) & (numbers == np.floor(numbers))
        return numbers.astype(np.int64) if bool(np.all(right)) else None
    if column.kind == "number":
        return numbers
    times = _as_ns(numbers, column.kind)
    return times if bool(np.all((numbers >= 0) & (times <= MAX_TIME_NS))) else None


def _as_ns(numbers: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """Whole nanoseconds, at least 1 (LLMServingSim's import rule, which loses nothing that was measured)."""
    return np.maximum(np.rint(numbers * 1000) if kind == "us" else numbers, 1.0)


def _read_checked(path: Path, text: str, columns: Sequence[Column], places: list[int]) -> Table:
    """Read row by row, with Python's CSV reader; report the first thing that is wrong."""
    reader = csv.reader(io.StringIO(text))
    values: list[list[Any]] = [[] for _ in columns]
    lines: list[int] = []
    try:
        width = len(next(reader))
        for row in reader:
            if not row:
                continue
            where = f"{path}:{reader.line_num}"
            if len(row) != width:
                raise InputError(f"{len(row)} values in a table of {width} columns", where=where)
            for column, place, entries in zip(columns, places, values, strict=True):
                entries.append(_parsed(column, row[place].strip(), where))
            lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"not valid CSV: {error}", where=f"{path}:{reader.line_num}") from None
    if not lines:
        raise InputError("no rows below the header", where=str(path))
    arrays = {column.name: np.array(entries) for column, entries in zip(columns, values, strict=True)}
    return Table(path, arrays, np.array(lines))


def _parsed(column: Column, entry: str, where: str) -> str | int | float:
    if column.kind == "text":
        if not entry:
            raise InputError(f"{column.name} is empty", where=where)
        return entry
    number = _number(column, entry, where)
    if column.kind == "number":
        return number
    low, high = (column.minimum, MAX_COUNT) if column.kind == "count" else (0, MAX_TIME_NS)
    scaled = number * 1000 if column.kind == "us" else number
    if not low <= scaled <= high or (column.kind == "count" and number != math.floor(number)):
        raise InputError(f"{column.name} is {entry!r}; {_ALLOWED[column.kind].format(low)}", where=where)
    return int(number) if column.kind == "count" else float(max(1.0, round(scaled) if column.kind == "us" else scaled))


_ALLOWED = {
    "count": "it must be a whole number from {} to 2147483648",
    "us": "it must be a time in microseconds, from {} to 10^12",
    "ns": "it must be a time in nanoseconds, from {} to 10^15",
}


def _number(column: Column, entry: str, where: str) -> float:
    parse: Callable[[str], float] = float
    try:
        number = parse(entry)
    except ValueError:
        raise InputError(f"{column.name} is {entry!r}, which is no number", where=where) from None
    if not math.isfinite(number):
        raise InputError(f"{column.name} is {entry!r}; it must be finite", where=where)
    return number
