"""Validation of a run: its files against measured data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from servetwin.calibrate.compare import Comparison, compare_requests, compare_series
from servetwin.calibrate.measured import RequestTimes, Series, read_measured, read_request_csv, read_series
from servetwin.calibrate.overlay import overlay_page
from servetwin.calibrate.states import series_of
from servetwin.core.errors import InputError

PAGE, TABLE = "validation.html", "validation.csv"


@dataclass(frozen=True)
class Validation:
    """What a comparison gave: its rows, and its page (HTML)."""

    rows: Sequence[Comparison]
    page: str


def validate(run_directory: Path, measured_path: Path) -> Validation:
    """Compare the files of a run with measured data.

    Per-request logs are compared by the statistics of TTFT, TPOT and E2E, and series by what both sides have. Times
    count from the first arrival of a log, and from the start of a series.

    Raises
    ------
    InputError
        If a file is missing or is not what it should be.
    """
    measured = read_measured(measured_path)
    title = f"{run_directory.name} against {measured_path.name}"
    if isinstance(measured, RequestTimes):
        return _against_requests(run_directory, measured, title)
    return _against_series(run_directory, measured, title)


def _against_requests(run_directory: Path, measured: RequestTimes, title: str) -> Validation:
    simulated = read_request_csv(_file(run_directory, "requests.csv"))
    measured, simulated = (times.shifted(-float(times.arrival_s.min())) for times in (measured, simulated))
    rows = [*_counts(measured, simulated), *compare_requests(measured, simulated)]
    series = series_of(measured), series_of(simulated)
    return Validation(rows, overlay_page(title, rows, series, (measured, simulated)))


def _counts(measured: RequestTimes, simulated: RequestTimes) -> list[Comparison]:
    """Return what has to agree before latencies can be compared."""
    return [
        Comparison("requests", "completed", "", len(measured.arrival_s), len(simulated.arrival_s)),
        Comparison("output tokens", "total", "", float(measured.output_tokens.sum()), _total(simulated)),
    ]


def _total(times: RequestTimes) -> float:
    return float(times.output_tokens.sum())


def _against_series(run_directory: Path, measured: Series, title: str) -> Validation:
    simulated = _timeline(run_directory)
    rows = list(compare_series(measured, simulated))
    if not rows:
        known = ", ".join(simulated.columns)
        raise InputError(f"has no column that the run's timeline has too; there are: {known}", where=title)
    return Validation(rows, overlay_page(title, rows, (measured, simulated), None))


def _timeline(run_directory: Path) -> Series:
    """Return a run's timeline; its rows are named by their start, a series' by their end."""
    series = read_series(_file(run_directory, "timeline.csv"))
    width = float(np.diff(series.end_s).min())
    return replace(series, end_s=series.end_s + width)


def _file(run_directory: Path, name: str) -> Path:
    path = run_directory / name
    if not path.is_file():
        raise InputError(
            "no such file; give the directory of a finished run (servetwin run ... -o DIR)", where=str(path)
        )
    return path


def write_validation(validation: Validation, directory: Path) -> list[Path]:
    """Write the page and the table; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    page, table = directory / PAGE, directory / TABLE
    page.write_text(validation.page, encoding="utf-8")
    lines = ["metric,statistic,unit,measured,simulated,error_percent"]
    lines += [
        f"{row.metric},{row.statistic},{row.unit},{row.measured:.6g},{row.simulated:.6g},{row.error_percent:.3f}"
        for row in validation.rows
    ]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [page, table]
