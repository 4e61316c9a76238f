"""Columns as files: CSV with fixed formats, and Parquet."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from numpy.typing import NDArray

from servetwin.metrics.tables import Table

_ROWS_AT_ONCE = 100_000

_SPECIAL = re.compile(r'[,"\n\r]')


def write_csv(path: Path, tables: Iterable[Table]) -> None:
    """Write tables of equal columns one below the other, under one header.

    Times and latencies (names that end in ``_s``, rates aside) have nine decimals, other floating-point numbers up to
    fifteen digits; NaN and None are empty.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        for number, table in enumerate(tables):
            if not number:
                file.write(",".join(table) + "\n")
            _write_rows(file, table)


def write_parquet(path: Path, table: Table) -> None:
    """Write a table as Parquet; NaN and None become nulls."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        name: pa.array(values, type=pa.string() if values.dtype == object else None, from_pandas=True)
        for name, values in table.items()
    }
    pq.write_table(pa.table(columns), path)


def _write_rows(file: TextIO, table: Table) -> None:
    rows = len(next(iter(table.values())))
    for begin in range(0, rows, _ROWS_AT_ONCE):
        cells = [_cells(name, values[begin : begin + _ROWS_AT_ONCE]) for name, values in table.items()]
        file.write("\n".join(map(",".join, zip(*cells, strict=True))) + "\n")


def _cells(name: str, values: NDArray[Any]) -> Iterable[str]:
    """Return a column's values as text."""
    if values.dtype == object:
        return _quoted(["" if value is None else value for value in values.tolist()])
    if values.dtype.kind in "iu":
        return map(str, values.tolist())
    form = "%.9f" if name.endswith("_s") and not name.endswith("_per_s") else "%.15g"
    return [form % value if value == value else "" for value in values.tolist()]


def _quoted(names: list[str]) -> list[str]:
    """Return names as CSV wants them: in quotes where one holds a comma, a quote or a line break."""
    if not _SPECIAL.search("".join(names)):  # as good as always, and much faster than to look at each
        return names
    return ['"' + name.replace('"', '""') + '"' if _SPECIAL.search(name) else name for name in names]
