"""Everything that is measured of one simulation, computed when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import SimulationOutcome
from servetwin.core.errors import InputError
from servetwin.metrics.limits import what_limits
from servetwin.metrics.limits_between import Limit
from servetwin.metrics.options import MetricOptions
from servetwin.metrics.records import Records
from servetwin.metrics.summary import summarize
from servetwin.metrics.tables import Table, request_ids, requests_table, resources_table, token_times_table
from servetwin.metrics.timeline import Grid, timeline
from servetwin.metrics.tokens import TokenLog

_TOKENS_AT_ONCE = 1_000_000


class Measurements:
    """The measurements of one simulation.

    Parameters
    ----------
    outcome
        What the simulation left behind; it must not change any more.
    options
        Interval, warm-up and objectives.
    """

    def __init__(self, outcome: SimulationOutcome, options: MetricOptions) -> None:
        self.records = Records(outcome, options)
        self.tokens = TokenLog(self.records)

    def summary(self, *, seed: int = 0, scenario_hash: str = "") -> dict[str, Any]:
        """Return the content of ``summary.json``."""
        return summarize(self.records, self.tokens, seed=seed, scenario_hash=scenario_hash)

    @cached_property
    def grid(self) -> Grid:
        """The intervals of the time series."""
        return Grid.of(self.records)

    @cached_property
    def requests(self) -> Table:
        """One row per request."""
        return requests_table(self.records)

    @cached_property
    def timeline(self) -> Table:
        """One row per interval: the whole cluster."""
        return timeline(self.records, self.grid, self.records.cluster)

    @cached_property
    def resources(self) -> Table:
        """One row per interval, instance and metric."""
        return resources_table(self.records, self.grid)

    @cached_property
    def limit(self) -> Limit:
        """What limits the deployment."""
        return what_limits(self.records)

    def row(self, request_id: str | int) -> int:
        """Return the row of a request.

        Raises
        ------
        InputError
            If no request has that name.
        """
        row = self._rows_by_id.get(str(request_id))
        if row is None:
            some = ", ".join(list(self._rows_by_id)[:3])
            raise InputError(f"unknown request {request_id!r}. There are {len(self._rows_by_id)}: {some}, ...")
        return row

    def token_times_ns(self, row: int) -> NDArray[np.int64]:
        """Return when each token of a row appeared, ascending, shape ``(tokens,)``; empty if none did."""
        return self.tokens.times_ns(np.array([row]))[1]

    def token_times(self) -> Iterator[Table]:
        """Yield the times of all tokens as tables of about a million rows; always at least one table."""
        ends = np.cumsum(self.records.output_tokens)
        cuts = np.searchsorted(ends, np.arange(_TOKENS_AT_ONCE, ends.max(initial=0), _TOKENS_AT_ONCE)) + 1
        for rows in np.split(np.arange(len(ends)), np.unique(cuts)):
            yield token_times_table(self.records, self.tokens, rows)

    @cached_property
    def _rows_by_id(self) -> dict[str, int]:
        ids = request_ids(self.records, np.arange(len(self.records)))
        return {name: row for row, name in enumerate(ids.tolist())}
