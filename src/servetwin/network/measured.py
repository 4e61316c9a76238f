"""Measured collectives in place of formulas: a table of times, interpolated over size."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.units import NS_PER_US
from servetwin.network.algorithms import OPERATIONS, Operation
from servetwin.network.base import Collectives
from servetwin.network.by_operation import ByOperation, operation_ns
from servetwin.network.curves import Curve, CurveKey, Curves, curves_of

REQUIRED = ("operation", "ranks", "bytes", "time_us")
OPTIONAL = ("stride",)


class MeasuredCollectives(ByOperation):
    """Collectives by measured curves; implements `servetwin.network.base.Collectives`.

    Parameters
    ----------
    curves
        By operation, ranks and stride; sizes as `Collectives` counts them.
    otherwise
        What answers for a group or an operation that was not measured; None: an error.
    where
        The place of the data, for messages.
    """

    def __init__(self, curves: Curves, otherwise: Collectives | None = None, *, where: str | None = None) -> None:
        self.curves = curves
        self._otherwise = otherwise
        self._where = where

    def send_ns(self, num_bytes: float, distance: int = 1) -> float:
        """Return the measured time of a message; ``distance`` is the stride of its rows."""
        if distance == 0:
            return 0.0
        curve = self.curves.get(CurveKey("send", 2, distance))
        if curve is not None:
            return curve(num_bytes)
        return self._fallback(CurveKey("send", 2, distance)).send_ns(num_bytes, distance)

    def _time_ns(self, operation: Operation, num_bytes: float, ranks: int, stride: int) -> float:
        if ranks == 1:
            return 0.0
        key = CurveKey(operation, ranks, stride)
        curve = self.curves.get(key)
        if curve is not None:
            return curve(num_bytes)
        return operation_ns(self._fallback(key), operation, num_bytes, ranks, stride)

    def _fallback(self, key: CurveKey) -> Collectives:
        if self._otherwise is not None:
            return self._otherwise
        same = sorted({(one.ranks, one.stride) for one in self.curves if one.operation == key.operation})
        measured = ", ".join(f"{ranks} ranks with stride {stride}" for ranks, stride in same) or "nothing"
        raise InputError(
            f"{key.operation} among {key.ranks} ranks with stride {key.stride} was not measured; measured: {measured}",
            where=self._where,
        )


def read_measured(path: Path) -> dict[CurveKey, Curve]:
    """Return the curves in a CSV file with the columns operation, ranks, bytes, time_us and, if need be, stride.

    ``operation`` is one of `OPERATIONS` or ``send`` (whose stride is the distance).

    Raises
    ------
    InputError
        If the file cannot be read, a column is missing or unknown, or a value cannot be (with the line).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None
    reader = csv.DictReader(text.splitlines(), restkey="", strict=True)
    try:
        _check_columns(reader.fieldnames or (), str(path))
        curves = curves_of(_rows(reader, path))
    except csv.Error as error:
        raise InputError(f"not valid CSV: {error}", where=f"{path}:{reader.line_num}") from None
    if not curves:
        raise InputError("no rows: a table of measured collectives needs at least one", where=str(path))
    return curves


def _check_columns(names: object, where: str) -> None:
    columns = list(names) if isinstance(names, list | tuple) else []
    for name in REQUIRED:
        if name not in columns:
            raise InputError(f"column {name!r} is missing; needed: {', '.join(REQUIRED)}", where=f"{where}:1")
    for name in columns:
        if name not in (*REQUIRED, *OPTIONAL):
            raise unknown_name("column", name, (*REQUIRED, *OPTIONAL), where=f"{where}:1")


def _rows(reader: csv.DictReader[str], path: Path) -> Iterator[tuple[CurveKey, float, float]]:
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if "" in row or None in row.values():
            raise InputError("has not as many values as the first line has columns", where=where)
        operation = row["operation"]
        if operation not in (*OPERATIONS, "send"):
            raise unknown_name("operation", operation, (*OPERATIONS, "send"), where=where)
        ranks = int(_number(row, "ranks", 2, True, where))
        if operation == "send" and ranks != 2:
            raise InputError(f"a send has 2 ranks, not {ranks}", where=where)
        stride = int(_number(row, "stride", 1, True, where)) if "stride" in row else 1
        time_us = _number(row, "time_us", 0, False, where)
        yield CurveKey(operation, ranks, stride), _number(row, "bytes", 0, False, where), time_us * NS_PER_US


def _number(row: dict[str, str], name: str, least: float, whole: bool, where: str) -> float:
    try:
        value = float(int(row[name])) if whole else float(row[name])
    except (ValueError, OverflowError):
        value = math.nan
    if least <= value < 1e18:
        return value
    kind = "a whole number" if whole else "a number"
    raise InputError(f"{name} must be {kind} of at least {least}, got {row[name]!r}", where=where)
