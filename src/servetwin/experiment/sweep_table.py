"""The table of a sweep as CSV: written whole after each point, so that a stopped sweep can go on."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from servetwin.core.errors import InputError

REQUIRED = ("scenario_hash", "error")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of an earlier sweep; none where there is no file.

    Raises
    ------
    InputError
        If the file is no table of a sweep.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, restval="")
            if not set(REQUIRED) <= set(reader.fieldnames or ()):
                raise InputError(f"is no sweep's table: it has no columns {' and '.join(REQUIRED)}", where=str(path))
            return [{name: value for name, value in row.items() if name is not None} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write rows, whose columns may differ, as one table; the file is replaced at once or not at all."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)
