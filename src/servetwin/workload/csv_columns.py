"""The columns of a workload's CSV file: read plainly, with the line of every error, or fast by pyarrow."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError, unknown_name
from servetwin.workload.columns import Integers
from servetwin.workload.files import read_text
from servetwin.workload.limits import MAX_SECONDS, MAX_TOKENS

_MAX_PRIORITY = 2**31 - 1
_WHOLE_NUMBERS = {
    "prompt_tokens": (1, MAX_TOKENS),
    "output_tokens": (1, MAX_TOKENS),
    "priority": (-_MAX_PRIORITY, _MAX_PRIORITY),
    "encoder_tokens": (0, MAX_TOKENS),
}
_MAY_BE_EMPTY = ("priority", "encoder_tokens")
_REQUIRED = ("arrival_s", "prompt_tokens", "output_tokens")
_LABELS = ("request_id", "session_id", "model")
_ALLOWED = (*_REQUIRED, *_LABELS, *_MAY_BE_EMPTY)


@dataclass(slots=True)
class CsvColumns:
    """The columns of a file, in its order; None for a column that it lacks."""

    arrival_s: NDArray[np.float64]
    prompt_tokens: Integers
    output_tokens: Integers
    request_id: list[str] | None = None
    session_id: list[str | None] | None = None
    model: list[str | None] | None = None
    priority: Integers | None = None
    encoder_tokens: Integers | None = None


def read_plain(path: Path, limit: int | None) -> CsvColumns:
    """Read a file row by row.

    Raises
    ------
    InputError
        At the first thing that is wrong, with its line and column.
    """
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        _check_header(header, str(path))
        cells: list[list[Any]] = [[] for _ in header]
        for count, row in enumerate(_filled(rows)):
            if count == limit:
                break
            _append_row(cells, header, row, f"{path}:{rows.line_num}")
    except csv.Error as error:
        raise InputError(f"not a row of a CSV file ({error})", where=f"{path}:{rows.line_num}") from None
    if not cells[0]:
        raise InputError("the workload is empty: the file has a header but no rows", where=str(path))
    columns = dict(zip(header, cells, strict=True))
    for name in _WHOLE_NUMBERS.keys() & columns.keys():
        columns[name] = np.array(columns[name], dtype=np.int64)  # type: ignore[assignment]
    return CsvColumns(arrival_s=np.array(columns.pop("arrival_s"), dtype=np.float64), **columns)  # type: ignore[arg-type]


def read_large(raw: bytes, limit: int | None) -> CsvColumns | None:
    """Read a file's bytes by pyarrow.

    Returns
    -------
    CsvColumns or None
        None where anything looks wrong: ``read_plain`` then finds out what it is, and where.
    """
    if raw.count(b'"') % 2 or b"0x" in raw or b"0X" in raw:  # pyarrow takes open quotes, and hexadecimal numbers
        return None
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    types = {name: pa.int64() for name in _WHOLE_NUMBERS} | {name: pa.string() for name in _LABELS}
    options = arrow_csv.ConvertOptions(
        column_types=types | {"arrival_s": pa.float64()}, null_values=[""], strings_can_be_null=True
    )
    try:
        table = arrow_csv.read_csv(pa.BufferReader(raw), convert_options=options)
    except pa.ArrowInvalid:
        return None
    names = table.column_names
    if len(set(names)) < len(names) or not set(_REQUIRED) <= set(names) <= set(_ALLOWED) or table.num_rows == 0:
        return None
    return _checked(table if limit is None else table.slice(0, limit))


def _checked(table: Any) -> CsvColumns | None:
    """Return a table's columns; None if a value is missing or out of range."""
    needed = [name for name in (*_REQUIRED, "request_id") if name in table.column_names]
    if any(table[name].null_count for name in needed):
        return None
    arrival_s = table["arrival_s"].to_numpy()
    if not (np.all(arrival_s >= 0) and np.all(arrival_s <= MAX_SECONDS)):  # false for NaN too
        return None
    numbers = {name: table[name].fill_null(0).to_numpy() for name in _WHOLE_NUMBERS if name in table.column_names}
    for name, (low, high) in _WHOLE_NUMBERS.items():
        if name in numbers and not low <= numbers[name].min() <= numbers[name].max() <= high:
            return None
    labels = {name: table[name].to_pylist() for name in _LABELS if name in table.column_names}
    return CsvColumns(arrival_s=arrival_s, **numbers, **labels)


def _filled(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """Leave out blank lines."""
    return (row for row in rows if row)


def _check_header(header: list[str], where: str) -> None:
    for name in header:
        if name not in _ALLOWED:
            raise unknown_name("column", name, _ALLOWED, where=f"{where}:1")
    if missing := [name for name in _REQUIRED if name not in header]:
        message = f"column {', '.join(missing)} missing; the first line must name arrival_s,prompt_tokens,output_tokens"
        raise InputError(message, where=f"{where}:1")
    if len(set(header)) < len(header):
        raise InputError(f"a column is named twice: {','.join(header)}", where=f"{where}:1")


def _append_row(cells: list[list[Any]], header: list[str], row: list[str], where: str) -> None:
    if len(row) != len(header):
        raise InputError(f"has {len(row)} values, but there are {len(header)} columns", where=where)
    for column, name, cell in zip(cells, header, row, strict=True):
        if name == "arrival_s":
            column.append(_seconds(cell, where))
        elif name in _WHOLE_NUMBERS:
            column.append(_whole_number(cell, name, where))
        else:
            column.append(_label(cell, name, where))


def _seconds(cell: str, where: str) -> float:
    try:
        value = math.nan if "_" in cell else float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_SECONDS:
        raise InputError(f"arrival_s is {cell!r}; allowed: numbers of 0 to {MAX_SECONDS}", where=where)
    return value


def _whole_number(cell: str, name: str, where: str) -> int:
    low, high = _WHOLE_NUMBERS[name]
    text = cell.strip()
    if name in _MAY_BE_EMPTY and not text:
        return 0
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18 and low <= int(text) <= high):
        raise InputError(f"{name} is {cell!r}; allowed: whole numbers of {low} to {high}", where=where)
    return int(text)


def _label(cell: str, name: str, where: str) -> str | None:
    if not cell and name == "request_id":
        raise InputError("request_id is empty; name every request, or leave the column out", where=where)
    return cell or None
