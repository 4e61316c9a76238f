"""Reading workload files: plain or gzipped text, with errors that say what is wrong with the file."""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError, unknown_name


def read_bytes(path: Path) -> bytes:
    """Return the contents of ``path``, unpacked where the name ends in ``.gz``.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except FileNotFoundError:
        raise InputError("no such file; relative paths count from the file that names them", where=str(path)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None


def read_text(path: Path) -> str:
    """Return the UTF-8 text of ``path``.

    Raises
    ------
    InputError
        If it cannot be read or is no UTF-8; the line is named.
    """
    raw = read_bytes(path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError("is not UTF-8 text (is it a compressed or binary file?)", where=f"{path}:{line}") from None


def read_length_column(path: Path, column: str, longest: int) -> NDArray[np.int64]:
    """Return one column of whole numbers of a CSV file, shape ``(rows,)``.

    Raises
    ------
    InputError
        If the file or the column is missing, or a value is not a whole number of 1 to ``longest``.
    """
    rows = csv.reader(read_text(path).splitlines())
    header = [name.strip() for name in next(rows, [])]
    if column not in header:
        raise unknown_name("column", column, header, where=str(path))
    index = header.index(column)
    values = []
    for row in rows:
        if not row:
            continue
        cell = row[index].strip() if index < len(row) else ""
        if not (cell.isascii() and cell.isdigit() and 1 <= int(cell) <= longest):
            message = f"{column} is {cell!r}; allowed: whole numbers of 1 to {longest}"
            raise InputError(message, where=f"{path}:{rows.line_num}")
        values.append(int(cell))
    if not values:
        raise InputError("has a header but no rows", where=str(path))
    return np.array(values, dtype=np.int64)
