"""Operator tables: CSV files ``operator,rows,context_tokens,time_us``; ``docs/new-accelerator.md`` has the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from servetwin.core.errors import InputError, unknown_name
from servetwin.llm.operators import AttentionKernel
from servetwin.step.operator_times.base import ATTENTION, OPERATORS, OperatorOverRows
from servetwin.step.profile.decode_sheet import DecodeSheet
from servetwin.step.profile.grids import monotone
from servetwin.step.profile.monotone_curve import MonotoneCurve
from servetwin.step.profile.tables import Curve

NEEDED = ("operator", "rows", "time_us")
OPTIONAL = ("context_tokens", "model", "tensor_parallel_size")


class Sample(NamedTuple):
    """One row of a table: one run of an operator."""

    rows: int
    context_tokens: int
    time_ns: float
    where: str


class OperatorTables:
    """Times between samples: linear, never falling; beyond them along the last slopes; below the first, constant.

    Parameters
    ----------
    samples
        By operator. Attention needs a complete grid of rows and contexts.

    Raises
    ------
    InputError
        If two samples are at the same place, or a point of attention's grid is missing.
    """

    def __init__(self, samples: dict[str, list[Sample]]) -> None:
        self.notices: list[str] = []
        self.operators = frozenset(samples)
        self._curves = {name: _curve(rows) for name, rows in samples.items() if name not in ATTENTION}
        self._sheets = {name: _sheet(name, rows) for name, rows in samples.items() if name in ATTENTION}

    def rows_ns(self, op: OperatorOverRows, rows: int) -> float | None:
        """See `OperatorTimes`."""
        curve = self._curves.get(op.name)
        return curve(rows) if curve is not None else None

    def decode_ns(self, op: AttentionKernel, decodes: int, kv_tokens: int) -> float | None:
        """See `OperatorTimes`."""
        sheet = self._sheets.get("attention_decode")
        return sheet.curve(decodes).at(kv_tokens) if sheet is not None else None

    def prefill_ns(self, op: AttentionKernel, new: int, context: int) -> float | None:
        """See `OperatorTimes`."""
        sheet = self._sheets.get("attention_prefill")
        return sheet.curve(new).at(new * context) if sheet is not None else None


def read_operator_tables(paths: Iterable[Path], model: str, tensor_parallel_size: int) -> OperatorTables:
    """Read tables; rows of another ``model`` or ``tensor_parallel_size`` (columns that may be there) are left out.

    Raises
    ------
    InputError
        For a file, column, operator or value that is missing or wrong, with file and line; if no row is of this model.
    """
    samples: dict[str, list[Sample]] = {}
    others: set[str] = set()
    files = list(paths)
    for path in files:
        for number, row in _rows(path):
            where = f"{path}:{number}"
            of = (row.get("model") or model, row.get("tensor_parallel_size") or str(tensor_parallel_size))
            if of != (model, str(tensor_parallel_size)):
                others.add(f"{of[0]} on {of[1]}")
                continue
            name = row["operator"]
            if name not in OPERATORS:
                raise unknown_name("operator", name, OPERATORS, where=where)
            samples.setdefault(name, []).append(_sample(row, name, where))
    if files and not samples:
        has = f"; it has {', '.join(sorted(others))}" if others else ""
        message = f"no row for {model} on {tensor_parallel_size} accelerators{has}"
        raise InputError(message, where=str(files[0]))
    return OperatorTables(samples)


def _rows(path: Path) -> Sequence[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader((line for line in file if not line.startswith("#")), skipinitialspace=True)
            names = [name.strip() for name in reader.fieldnames or []]
            _check_columns(names, path)
            reader.fieldnames = names
            return [(reader.line_num, {k: (v or "").strip() for k, v in row.items()}) for row in reader]
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None


def _check_columns(names: Sequence[str], path: Path) -> None:
    for name in names:
        if name not in (*NEEDED, *OPTIONAL):
            raise unknown_name("column", name, (*NEEDED, *OPTIONAL), where=f"{path}:1")
    for name in NEEDED:
        if name not in names:
            raise InputError(f"column {name!r} is missing; needed: {', '.join(NEEDED)}", where=f"{path}:1")


def _sample(row: dict[str, str], name: str, where: str) -> Sample:
    context = row.get("context_tokens") or ""
    if context and name not in ATTENTION:
        raise InputError(f"context_tokens is for {' and '.join(ATTENTION)}; leave it empty for {name}", where=where)
    if not context and name in ATTENTION:
        raise InputError(f"context_tokens is missing; {name} needs it", where=where)
    rows, tokens = _whole(row["rows"], "rows", 1, where), _whole(context or "0", "context_tokens", 0, where)
    return Sample(rows, tokens, _time_ns(row["time_us"], where), where)


def _whole(text: str, column: str, minimum: int, where: str) -> int:
    if not text.isascii() or not text.isdigit() or not minimum <= int(text) < 2**31:
        raise InputError(f"{column} must be a whole number of at least {minimum}, found {text!r}", where=where)
    return int(text)


def _time_ns(text: str, where: str) -> float:
    try:
        time_us = float(text)
    except ValueError:
        time_us = -1.0
    if not 0 < time_us < 1e12:
        raise InputError(f"time_us must be a number above 0, found {text!r}", where=where)
    return time_us * 1000


def _curve(samples: list[Sample]) -> MonotoneCurve:
    ordered = sorted(samples)
    for first, second in pairwise(ordered):
        if first.rows == second.rows:
            raise InputError(f"a second time for {second.rows} rows (also {first.where})", where=second.where)
    counts = np.array([sample.rows for sample in ordered])
    return MonotoneCurve(Curve(counts, np.array([sample.time_ns for sample in ordered])))


def _sheet(name: str, samples: list[Sample]) -> DecodeSheet:
    rows = np.unique([sample.rows for sample in samples])
    contexts = np.unique([sample.context_tokens for sample in samples])
    values = np.full((len(rows), len(contexts)), np.nan)
    for sample in samples:
        at = np.searchsorted(rows, sample.rows), np.searchsorted(contexts, sample.context_tokens)
        if not np.isnan(values[at]):
            raise InputError("a second time for these rows and this context", where=sample.where)
        values[at] = sample.time_ns
    if np.isnan(values).any():
        i, j = np.argwhere(np.isnan(values))[0]
        message = f"{name}: no time for rows {rows[i]}, context_tokens {contexts[j]}; give one for each pair"
        raise InputError(message, where=samples[0].where.rpartition(":")[0])
    return DecodeSheet(rows, contexts, monotone(values))
