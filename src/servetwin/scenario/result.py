"""The result of a simulation: a summary, columns, and the files of a run's directory."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from servetwin._version import __version__
from servetwin.cluster.base import SimulationOutcome
from servetwin.cluster.embeddings import encoder_names
from servetwin.core.errors import InputError, unknown_name
from servetwin.core.units import NS_PER_S
from servetwin.metrics.files import write_csv, write_parquet
from servetwin.metrics.measurements import Measurements
from servetwin.metrics.options import MetricOptions
from servetwin.metrics.resources import NamedSeries
from servetwin.metrics.tables import Table, resources_table

if TYPE_CHECKING:
    import pandas as pd

    from servetwin.energy.model import Energy
    from servetwin.scenario.accounting import Accounting

TableName = Literal["requests", "timeline", "resources", "power"]

_TABLES = ("requests", "timeline", "resources", "power")

_DEFAULT_OPTIONS = MetricOptions()


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known of a run beside its outcome.

    Attributes
    ----------
    seed, scenario_hash
        Of the scenario; they stand in the summary.
    resolved_yaml
        The scenario with all defaults filled in.
    wall_time_s
        How long the simulation took, in seconds of real time; None if nobody measured it.
    title, subtitle
        Headings of the report.
    scenario_folder
        From which relative paths in the scenario count, so that ``resolved.yaml`` can be run again.
    """

    seed: int = 0
    scenario_hash: str = ""
    resolved_yaml: str = ""
    wall_time_s: float | None = None
    title: str = "Simulation"
    subtitle: str = ""
    scenario_folder: str = ""


class Result:
    """What a simulation predicts.

    Parameters
    ----------
    outcome
        What the simulation left behind; it must not change any more.
    options
        Interval of the time series, warm-up, objectives.
    info
        Seed, hash and text of the scenario, headings of the report.
    accounting
        What to reckon of energy, cost and carbon.

    Attributes
    ----------
    summary
        The content of ``summary.json``: plain numbers, None where one is undefined.
    energy
        Power and energy, None where the scenario does not ask for them.
    """

    def __init__(
        self,
        outcome: SimulationOutcome,
        options: MetricOptions = _DEFAULT_OPTIONS,
        info: RunInfo | None = None,
        accounting: Accounting | None = None,
    ) -> None:
        self.info = info or RunInfo()
        self.outcome = outcome
        self.measurements = Measurements(outcome, options)
        self.summary: dict[str, Any] = self.measurements.summary(
            seed=self.info.seed, scenario_hash=self.info.scenario_hash
        )
        self.energy: Energy | None = None
        if accounting is not None:
            self.energy, reckoned = accounting.measure(outcome, options.interval_s)
            self.summary |= reckoned

    @property
    def requests(self) -> Table:
        """One row per request, as columns; NaN and None where something is undefined."""
        table = self.measurements.requests
        return table if self.energy is None else {**table, "energy_j": self.energy.request_j}

    @property
    def power(self) -> Table:
        """Mean power of each component over time, watts, one row per interval, as columns; empty without ``power``."""
        if self.energy is None:
            return {"time_s": np.zeros(0)}
        series = self.energy.series(self.measurements.grid.interval_ns / NS_PER_S)
        return {name if name == "time_s" else f"{name}_w": values for name, values in series.items()}

    @property
    def timeline(self) -> Table:
        """The whole cluster over time, one row per interval, as columns."""
        return self.measurements.timeline

    @cached_property
    def resources(self) -> Table:
        """Each resource over time, one row per interval, resource and metric, as columns; with encoders' power."""
        if self.energy is None or not self.energy.encoder_curves:
            return self.measurements.resources
        return resources_table(self.measurements.records, self.measurements.grid, self._encoder_power(self.energy))

    def _encoder_power(self, energy: Energy) -> list[NamedSeries]:
        """Return the mean power of each encoder per interval, in watts."""
        grid, curves = self.measurements.grid, energy.encoder_curves
        bounds = np.append(grid.start_ns, grid.count * grid.interval_ns)
        return [
            ("encoder", name, {"power_w": curve.binned(bounds)})
            for name, curve in zip(encoder_names(len(curves)), curves, strict=True)
        ]

    @property
    def limit(self) -> str:
        """One sentence on what limits the deployment."""
        return self.measurements.limit.sentence

    def token_times(self, request_id: str | int) -> NDArray[np.int64]:
        """Return when each token of a request appeared, in nanoseconds, ascending; empty if none did.

        Raises
        ------
        InputError
            If no request has that name.
        """
        return self.measurements.token_times_ns(self.measurements.row(request_id))

    def to_pandas(self, table: TableName = "requests") -> pd.DataFrame:
        """Return a table as a pandas data frame.

        Raises
        ------
        InputError
            If pandas is not installed, or there is no such table.
        """
        if table not in _TABLES:
            raise unknown_name("table", table, _TABLES)
        try:
            import pandas as pd
        except ImportError:
            raise InputError("to_pandas needs pandas, which is optional: pip install 'servetwin[pandas]'") from None
        return pd.DataFrame(getattr(self, table))

    def write(self, directory: str | Path, *, report: bool = True, token_times: bool = False) -> Path:
        """Write the files of a run's directory, which is made if need be, and return its path.

        Two equal runs write equal files, byte for byte, apart from ``run.json``.

        Parameters
        ----------
        directory
            Where to; files of an earlier run there are replaced.
        report
            Whether to write ``report.html``.
        token_times
            Whether to write ``token_times.csv``, one row per token.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "run.json", self._run())  # first: by this file a run's directory is known
        (folder / "resolved.yaml").write_text(self.info.resolved_yaml, encoding="utf-8")
        _write_json(folder / "summary.json", self.summary)
        write_parquet(folder / "requests.parquet", self.requests)
        for name in _TABLES[:3]:
            write_csv(folder / f"{name}.csv", [getattr(self, name)])
        self._write_optional(folder, report, token_times)
        return folder

    def _write_optional(self, folder: Path, report: bool, token_times: bool) -> None:
        """Write the files that are not always wanted; remove those that an earlier run left."""
        page, tokens = folder / "report.html", folder / "token_times.csv"
        if self.energy is not None:
            write_csv(folder / "power.csv", [self.power])
        else:
            (folder / "power.csv").unlink(missing_ok=True)
        if token_times:
            write_csv(tokens, self.measurements.token_times())
        else:
            tokens.unlink(missing_ok=True)
        if report:
            page.write_text(self._report(), "utf-8")
        else:
            page.unlink(missing_ok=True)

    def _report(self) -> str:
        from servetwin.report.run_report import run_report

        power = self.power if self.energy is not None else None
        return run_report(self.measurements, self.summary, self.info.title, self.info.subtitle, power)

    def _run(self) -> dict[str, Any]:
        """Return the content of ``run.json``: everything that differs between equal runs."""
        return {
            "incomplete": not self.outcome.complete,
            "wall_time_s": self.info.wall_time_s,
            "scenario_folder": self.info.scenario_folder,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": __version__,
            "host": platform.node(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        }

    def __repr__(self) -> str:
        requests = self.summary["requests"]
        return f"<Result: {requests['completed']} of {requests['total']} requests completed>"

    def _repr_html_(self) -> str:
        from servetwin.report.tables import latency_table

        return f"<p>{escape(self.limit)}</p>{latency_table(self.summary)}"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
