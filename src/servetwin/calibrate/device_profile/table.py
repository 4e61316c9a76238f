"""The tables of a device's profile: one CSV file per operator, written row by row, so that a stop loses one row."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from servetwin.calibrate.device_profile.grid import check_words
from servetwin.calibrate.device_profile.header import Header, read_header
from servetwin.calibrate.device_profile.points import OPERATORS, TEXT_KEYS, Point
from servetwin.calibrate.device_profile.sampling import Statistics
from servetwin.core.errors import InputError

VALUES = ("median", "p10", "p90")
NOT_MEASURED = "not_measured.csv"
NOT_MEASURED_COLUMNS = ("operator", "keys", "reason")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row: a point, what it took, and by what it was computed.

    Attributes
    ----------
    statistics
        Microseconds of one call; watts where the operator is ``power``.
    kernel
        The function that was called (``torch.mm``).
    """

    point: Point
    statistics: Statistics
    kernel: str


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """All that was measured on one device.

    Attributes
    ----------
    rows
        By operator, in the order in which they were measured.
    not_measured
        Points that could not be measured, each with the reason.
    """

    header: Header
    rows: Mapping[str, Sequence[Measurement]]
    not_measured: Mapping[Point, str]

    def done(self) -> set[Point]:
        """Return the points that need not be measured again."""
        return {row.point for rows in self.rows.values() for row in rows} | set(self.not_measured)


def unit_of(operator: str) -> str:
    """Return the unit of an operator's values, as it stands in the names of their columns."""
    return "w" if operator == "power" else "us"


def columns_of(operator: str) -> tuple[str, ...]:
    """Return the columns of an operator's table."""
    unit = unit_of(operator)
    return (*OPERATORS[operator], *(f"{name}_{unit}" for name in VALUES), "samples", "kernel")


def append_measurement(folder: Path, row: Measurement) -> None:
    """Add a row to its operator's table."""
    stats = row.statistics
    values = [f"{value:.6g}" for value in (stats.median, stats.p10, stats.p90)]
    operator = row.point.operator
    _append(folder / f"{operator}.csv", columns_of(operator), [*row.point.keys, *values, stats.samples, row.kernel])


def append_not_measured(folder: Path, point: Point, reason: str) -> None:
    """Note that a point cannot be measured here, and why."""
    keys = " ".join(str(key) for key in point.keys)
    _append(folder / NOT_MEASURED, NOT_MEASURED_COLUMNS, [point.operator, keys, " ".join(reason.split())])


def read_device_profile(folder: str | Path) -> DeviceProfile:
    """Return the profile in ``folder``.

    Raises
    ------
    InputError
        If there is none, or a table does not hold what it should; with the file and the line. A last line that was
        cut short (the tool was stopped while it wrote) is left out.
    """
    folder = Path(folder)
    header = read_header(folder)
    rows = {operator: _read_table(folder / f"{operator}.csv", operator) for operator in OPERATORS}
    return DeviceProfile(
        header, {operator: found for operator, found in rows.items() if found}, _read_not_measured(folder)
    )


def drop_cut_lines(folder: Path) -> None:
    """Remove a last line without its end from each table, so that the next row begins on a line of its own."""
    for path in sorted(folder.glob("*.csv")):
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            path.write_bytes(content[: content.rfind(b"\n") + 1])


def _append(path: Path, columns: Sequence[str], values: Sequence[object]) -> None:
    new = not path.is_file() or path.stat().st_size == 0
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(columns)
        writer.writerow(values)


def _lines(path: Path, columns: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the place and the cells of each whole line below the header."""
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None
    whole = text[: text.rfind("\n") + 1].splitlines()
    if not whole:
        return []
    lines = list(csv.reader(whole))
    if lines[0] != list(columns):
        raise InputError(f"columns must be {','.join(columns)}, got {','.join(lines[0])}", where=f"{path}:1")
    return [(f"{path}:{number}", cells) for number, cells in enumerate(lines[1:], start=2) if cells]


def _read_table(path: Path, operator: str) -> list[Measurement]:
    columns = columns_of(operator)
    rows: list[Measurement] = []
    seen: set[Point] = set()
    for where, cells in _lines(path, columns):
        if len(cells) != len(columns):
            raise InputError(f"has {len(cells)} values for {len(columns)} columns", where=where)
        row = _read_row(operator, dict(zip(columns, cells, strict=True)), where)
        if row.point in seen:
            raise InputError(f"stands twice: {row.point}", where=where)
        seen.add(row.point)
        rows.append(row)
    return rows


def _read_row(operator: str, cells: Mapping[str, str], where: str) -> Measurement:
    keys = [cells[name] for name in OPERATORS[operator]]
    point = _point(operator, keys, where)
    unit = unit_of(operator)
    median, p10, p90 = (_value(f"{name}_{unit}", cells[f"{name}_{unit}"], where) for name in VALUES)
    if not p10 <= median <= p90:
        raise InputError(f"the median {median:g} does not lie between p10 {p10:g} and p90 {p90:g}", where=where)
    statistics = Statistics(median, p10, p90, _count("samples", cells["samples"], where))
    return Measurement(point, statistics, cells["kernel"])


def _read_not_measured(folder: Path) -> dict[Point, str]:
    found: dict[Point, str] = {}
    for where, cells in _lines(folder / NOT_MEASURED, NOT_MEASURED_COLUMNS):
        if len(cells) != len(NOT_MEASURED_COLUMNS) or cells[0] not in OPERATORS:
            raise InputError("must hold an operator, its keys and a reason", where=where)
        found[_point(cells[0], cells[1].split(), where)] = cells[2]
    return found


def _point(operator: str, texts: Sequence[str], where: str) -> Point:
    names = OPERATORS[operator]
    if len(texts) != len(names):
        raise InputError(f"{operator} has the keys {', '.join(names)}, got {len(texts)} values", where=where)
    point = Point(
        operator,
        tuple(
            text if name in TEXT_KEYS else _count(name, text, where) for name, text in zip(names, texts, strict=True)
        ),
    )
    try:
        check_words(point)
    except InputError as error:
        raise InputError(str(error), where=where) from None
    return point


def _count(name: str, text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InputError(f"{name} must be a whole number of at least 0, got {text!r}", where=where)
    return int(text)


def _value(name: str, text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} must be a number above 0, got {text!r}", where=where)
    return value
