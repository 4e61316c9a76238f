"""Reading measured data: per-request logs and series.

Per-request logs
    JSON lines as LLMServingSim's ``bench`` writes them (``input_toks, output_toks, arrival_time, queued_ts,
    first_token_ts, last_token_ts``), or CSV with the columns ``arrival_s, first_token_s, finish_s, prompt_tokens,
    output_tokens`` and maybe ``request_id`` (the ``requests.csv`` of a run has them all).
Series
    CSV or TSV with ``time_s`` (or ``t``), the end of each row's interval, and at least one of ``throughput`` (or
    ``gen_throughput``, ``output_tokens_per_s``), ``prompt_throughput`` (or ``prompt_tokens_per_s``), ``running``,
    ``waiting``, ``kv_used_bytes``, ``kv_cached_bytes``, ``prefix_hit_rate`` (or ``prefix_hit_pct``), ``gpu_mem_mb``.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError

EPOCH_GAP_S = 1e5
"""``arrival_time`` counts only when it is this near to ``first_token_ts``: else the two are of different clocks."""

MISSING = ("", "nan", "NaN")
"""A time of a request that has not got so far."""

REQUEST_COLUMNS = ("arrival_s", "first_token_s", "finish_s", "prompt_tokens", "output_tokens")

SERIES_COLUMNS = {
    "t": "time_s",
    "gen_throughput": "output_tokens_per_s",
    "throughput": "output_tokens_per_s",
    "prompt_throughput": "prompt_tokens_per_s",
}
"""Other names of a series' columns."""

SERIES_METRICS = (
    "output_tokens_per_s",
    "prompt_tokens_per_s",
    "running",
    "waiting",
    "kv_used_bytes",
    "kv_cached_bytes",
    "prefix_hit_rate",
    "gpu_mem_mb",
)

PERCENT_COLUMNS = {"prefix_hit_pct": "prefix_hit_rate"}
"""Columns that are read as shares."""


@dataclass(frozen=True)
class RequestTimes:
    """Completed requests as columns of shape ``(n,)``, seconds from the first arrival or from the run's start."""

    arrival_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    finish_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]

    @property
    def ttft_s(self) -> NDArray[np.float64]:
        """Time to first token."""
        return self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> NDArray[np.float64]:
        """Time from arrival to finish."""
        return self.finish_s - self.arrival_s

    def shifted(self, offset_s: float) -> RequestTimes:
        """Return the same with all times later by ``offset_s``."""
        return RequestTimes(
            self.arrival_s + offset_s,
            self.first_token_s + offset_s,
            self.finish_s + offset_s,
            self.prompt_tokens,
            self.output_tokens,
        )

    @property
    def tpot_s(self) -> NDArray[np.float64]:
        """Time per output token after the first, of the requests that have more than one."""
        many = self.output_tokens > 1
        return (self.finish_s - self.first_token_s)[many] / (self.output_tokens[many] - 1)


@dataclass(frozen=True)
class Series:
    """Values over time; ``columns`` holds some of ``SERIES_METRICS``, each of shape ``(n,)``."""

    end_s: NDArray[np.float64]
    columns: Mapping[str, NDArray[np.float64]]


def read_measured(path: Path) -> RequestTimes | Series:
    """Return what ``path`` holds: a per-request log or a series.

    Raises
    ------
    InputError
        If it is neither, or a row is wrong; the message has the line.
    """
    if not path.is_file():
        raise InputError(
            "no such file; give a per-request log (.jsonl, .csv) or a series (.csv, .tsv)", where=str(path)
        )
    if path.suffix == ".jsonl":
        return read_bench_log(path)
    header = _header(path)
    if set(REQUEST_COLUMNS) <= set(header):
        return read_request_csv(path)
    if {"time_s", "t"} & set(header):
        return read_series(path)
    raise InputError(
        f"columns {', '.join(header)} are neither a per-request log ({', '.join(REQUEST_COLUMNS)}) "
        f"nor a series (time_s and one of throughput, running, waiting)",
        where=f"{path}:1",
    )


def read_bench_log(path: Path) -> RequestTimes:
    """Return a per-request log of LLMServingSim's ``bench``; queueing before the engine is left out, as there."""
    rows = [_bench_row(where, line) for where, line in _lines(path)]
    return _request_times(rows, path)


def read_request_csv(path: Path) -> RequestTimes:
    """Return a per-request CSV; rows without a finish (rejected or unfinished requests) are left out."""
    rows = []
    for where, row in _csv_rows(path):
        if row["finish_s"] not in MISSING and row["first_token_s"] not in MISSING:
            rows.append(tuple(_number(row[name], f"{where} {name}") for name in REQUEST_COLUMNS))
    return _request_times(rows, path)


def read_series(path: Path) -> Series:
    """Return a series; columns that mean nothing here are left out."""
    names = {name: (SERIES_COLUMNS | PERCENT_COLUMNS).get(name, name) for name in _header(path)}
    wanted = {name: known for name, known in names.items() if known in (*SERIES_METRICS, "time_s")}
    values: dict[str, list[float]] = {known: [] for known in wanted.values()}
    for where, row in _csv_rows(path):
        for name, known in wanted.items():
            scale = 0.01 if name in PERCENT_COLUMNS else 1.0
            values[known].append(_number(row[name], f"{where} {name}") * scale)
    if len(values) < 2:
        raise InputError(
            f"no column of {', '.join((*SERIES_METRICS, *SERIES_COLUMNS))} beside the time", where=str(path)
        )
    columns = {name: np.array(column, dtype=np.float64) for name, column in values.items()}
    end_s = columns.pop("time_s")
    if len(end_s) < 2 or np.any(np.diff(end_s) <= 0):
        raise InputError("at least two rows with ascending times are needed", where=str(path))
    return Series(end_s, columns)


def _bench_row(where: str, line: str) -> tuple[float, ...]:
    try:
        row = json.loads(line)
        first = _number(row["first_token_ts"], where)
        arrival = _number(row["arrival_time"], where)
        anchor = arrival if abs(arrival - first) < EPOCH_GAP_S else _number(row["queued_ts"], where)
        return anchor, first, _number(row["last_token_ts"], where), float(row["input_toks"]), float(row["output_toks"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"is no row of a bench log ({error!r})", where=where) from error


def _request_times(rows: Iterable[tuple[float, ...]], path: Path) -> RequestTimes:
    table = np.array(list(rows), dtype=np.float64)
    if table.size == 0:
        raise InputError("holds no completed request", where=str(path))
    arrival, first, finish, prompt, output = table.T
    if np.any(first < arrival) or np.any(finish < first) or np.any(output < 1):
        row = int(np.argmax((first < arrival) | (finish < first) | (output < 1)))
        message = f"completed request number {row + 1} must arrive, then answer, then finish, with a token or more"
        raise InputError(message, where=str(path))
    return RequestTimes(arrival, first, finish, prompt.astype(np.int64), output.astype(np.int64))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", line


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file, delimiter=_delimiter(path)), [])


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter=_delimiter(path), restval="")
        for row in reader:
            yield f"{path}:{reader.line_num}", row


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _number(text: object, where: str) -> float:
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f"a number is needed, found {text!r}", where=where) from error
    if not math.isfinite(value):
        raise InputError(f"a finite number is needed, found {text!r}", where=where)
    return value
