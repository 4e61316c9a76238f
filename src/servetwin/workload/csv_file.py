"""Workloads in CSV files: ``arrival_s,prompt_tokens,output_tokens`` and optional columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from servetwin.core.errors import InputError
from servetwin.workload.base import Workload
from servetwin.workload.columns import Integers, nanoseconds
from servetwin.workload.csv_columns import CsvColumns, read_large, read_plain
from servetwin.workload.files import read_bytes

_SMALL_BYTES = 2**20
"""Files up to this size are read sooner without pyarrow than pyarrow is imported."""


class CsvSource:
    """A CSV file with a header, one request per row.

    Columns: ``arrival_s`` (seconds), ``prompt_tokens``, ``output_tokens``, and perhaps ``request_id``, ``session_id``,
    ``model``, ``priority``, ``encoder_tokens``; in any order.

    Parameters
    ----------
    path
        The file; ``.gz`` is unpacked.
    limit
        Read only so many rows.
    """

    def __init__(self, path: str | Path, limit: int | None = None) -> None:
        self.path = Path(path)
        self.limit = limit

    def build(self, seed: int) -> Workload:
        """Return the file's requests, sorted by arrival; the seed changes nothing.

        Raises
        ------
        InputError
            If the file cannot be read, or a row is wrong; it names the file, the line, the column and what is allowed.
        """
        columns = self._read()
        repeated = _first_repeated(columns.request_id) if columns.request_id is not None else None
        if repeated is not None:
            raise InputError(f"request_id {repeated!r} occurs twice", where=str(self.path))
        if columns.encoder_tokens is not None:
            _check_encoder_tokens(columns.encoder_tokens, columns.prompt_tokens, str(self.path))
        workload = Workload(
            arrival_ns=nanoseconds(columns.arrival_s),
            prompt_tokens=columns.prompt_tokens,
            output_tokens=columns.output_tokens,
            request_id=columns.request_id,
            session_id=columns.session_id,
            model=columns.model,
            priority=columns.priority,
            encoder_tokens=columns.encoder_tokens,
            source=str(self.path),
        )
        falls = np.flatnonzero(np.diff(workload.arrival_ns) < 0)
        if len(falls):
            notice = f"{self.path}: row {falls[0] + 2} arrives before the row above it; all were sorted by arrival"
            workload.notices.append(notice)
            _reorder(workload, np.argsort(workload.arrival_ns, kind="stable"))
        return workload

    def _read(self) -> CsvColumns:
        raw = read_bytes(self.path)
        fast = read_large(raw, self.limit) if len(raw) > _SMALL_BYTES else None
        return fast if fast is not None else read_plain(self.path, self.limit)


def _reorder(workload: Workload, order: Integers) -> None:
    """Bring all columns into a new order."""
    rows = order.tolist()
    workload.arrival_ns = workload.arrival_ns[order]
    workload.prompt_tokens = workload.prompt_tokens[order]
    workload.output_tokens = workload.output_tokens[order]
    if workload.request_id is not None:
        workload.request_id = [workload.request_id[row] for row in rows]
    if workload.session_id is not None:
        workload.session_id = [workload.session_id[row] for row in rows]
    if workload.model is not None:
        workload.model = [workload.model[row] for row in rows]
    if workload.priority is not None:
        workload.priority = workload.priority[order]
    if workload.encoder_tokens is not None:
        workload.encoder_tokens = workload.encoder_tokens[order]


def _check_encoder_tokens(encoder_tokens: Integers, prompt_tokens: Integers, where: str) -> None:
    more = np.flatnonzero(encoder_tokens > prompt_tokens)
    if len(more):
        raise InputError(
            f"request {more[0]} has {encoder_tokens[more[0]]} encoder_tokens and {prompt_tokens[more[0]]} prompt_tokens"
            "; the prompt's tokens include those that an encoder makes",
            where=where,
        )


def _first_repeated(names: list[str]) -> str | None:
    """Return the first name that occurs a second time."""
    if len(set(names)) == len(names):
        return None
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
