"""A sweep: one scenario at every combination of some values, one row of a CSV per point, resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from servetwin.core.errors import InputError, ServetwinError
from servetwin.experiment.sweep_table import read_rows, write_rows
from servetwin.scenario.load import LoadedScenario, load_scenario
from servetwin.scenario.resolved import scenario_hash

MAX_POINTS = 10_000
TABLE = "sweep.csv"

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of values.

    Attributes
    ----------
    values
        By path.
    loaded
        The scenario with these values.
    hash
        Of that scenario.
    """

    values: Mapping[str, Any]
    loaded: LoadedScenario
    hash: str


def sweep_points(scenario: LoadedScenario, variations: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Return all combinations, the last path varying fastest.

    Raises
    ------
    InputError
        If a path or a value is wrong, or there are more than `MAX_POINTS` points.
    """
    count = prod(len(values) for values in variations.values())
    if not variations:
        raise InputError("nothing is varied; give at least one path=value,value", where="--vary")
    if count > MAX_POINTS:
        raise InputError(f"{count:,} points; at most {MAX_POINTS:,} are allowed", where="--vary")
    return [_point(scenario, dict(zip(variations, values, strict=True))) for values in product(*variations.values())]


def _point(scenario: LoadedScenario, values: dict[str, Any]) -> Point:
    loaded = load_scenario(scenario, edits=values, option="--vary")
    return Point(values, loaded, scenario_hash(loaded))


def run_sweep(
    points: Sequence[Point], folder: Path, *, jobs: int = 1, progress: Callable[[int], None] | None = None
) -> list[Row]:
    """Simulate the points that ``folder`` has no row of yet, and return the rows of all.

    Parameters
    ----------
    points
        See `sweep_points`.
    folder
        Where ``sweep.csv`` is written, after each point; it holds the points of the last sweep, and of earlier ones
        only those that were asked again.
    jobs
        Processes that simulate points at the same time.
    progress
        Called with the number of points that are done.

    Raises
    ------
    InputError
        If no point could be simulated: the first one's error. A point that fails beside others that do not (a model
        that does not fit, say) has the reason in its row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / TABLE
    known = {row["scenario_hash"]: _results(row) for row in read_rows(table) if not row["error"]}
    rows: dict[str, Row] = {point.hash: known[point.hash] for point in points if point.hash in known}
    missing = list({point.hash: point for point in points if point.hash not in rows}.values())
    if progress:
        progress(len(rows))
    for row in _simulated(missing, jobs):
        rows[row["scenario_hash"]] = row
        write_rows(table, _in_order(points, rows))
        if progress:
            progress(len(rows))
    done = _in_order(points, rows)
    write_rows(table, done)
    if done and all(row["error"] for row in done):
        raise InputError(f"no point could be simulated; the first: {done[0]['error']}")
    return done


def _results(row: Row) -> Row:
    """Return a row from its hash on, without the values that were varied (a later sweep may vary others)."""
    names = list(row)
    return {name: row[name] for name in names[names.index("scenario_hash") :]}


def _in_order(points: Sequence[Point], rows: Mapping[str, Row]) -> list[Row]:
    """Return the rows that are there in the order of the points, each with its point's values."""
    return [_values(point) | rows[point.hash] for point in points if point.hash in rows]


def _values(point: Point) -> Row:
    return {path: value if isinstance(value, str) else json.dumps(value) for path, value in point.values.items()}


def _simulated(points: Sequence[Point], jobs: int) -> Iterator[Row]:
    """Yield a row per point, as they are done."""
    if jobs == 1 or len(points) < 2:
        yield from map(simulate_point, points)
        return
    from multiprocessing import get_context

    with get_context("spawn").Pool(min(jobs, len(points)), _leave_interrupts_to_the_parent) as pool:
        yield from pool.imap_unordered(simulate_point, points)


def _leave_interrupts_to_the_parent() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def simulate_point(point: Point) -> Row:
    """Return the hash of one point, and what it reached or why it failed."""
    from servetwin.scenario.run import simulate

    row = {"scenario_hash": point.hash}
    try:
        result = simulate(point.loaded)
    except ServetwinError as error:
        return row | {"error": str(error)}
    if not result.outcome.complete:
        raise KeyboardInterrupt
    return row | {"error": ""} | dict(_flat(result.summary))


def _flat(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the cluster's numbers under dotted names."""
    for name, value in summary.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in _NOT_RESULTS:
            yield f"{prefix}{name}", f"{value:.15g}"


_NOT_RESULTS = ("schema_version", "seed")


def varied_paths(rows: Iterable[Row]) -> list[str]:
    """Return the columns of rows that stand before the hash: the paths that were varied."""
    first = next(iter(rows), {})
    names = list(first)
    return names[: names.index("scenario_hash")] if "scenario_hash" in names else []
