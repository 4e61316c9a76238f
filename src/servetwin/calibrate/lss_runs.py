"""Runs of LLMServingSim's reference data: imported, simulated, and read back as times and curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from servetwin.calibrate.measured import REQUEST_COLUMNS, RequestTimes
from servetwin.calibrate.series import TokenCurve
from servetwin.scenario.importers.llmservingsim import LssFlags, LssSource, import_scenario
from servetwin.scenario.result import Result
from servetwin.scenario.run import simulate


@dataclass(frozen=True)
class LssRun:
    """A run to simulate, by paths below ``reference/llmservingsim``.

    ``profiles`` is ``profiles-v1`` or ``profiles-v0``; ``flags`` are LLMServingSim's run flags; ``models`` is the
    folder of model files, None for the built-in models.
    """

    cluster: str
    workload: str
    profiles: str = "profiles-v1"
    flags: LssFlags = field(default_factory=LssFlags)
    models: str | None = None

    def simulate(
        self, reference: Path, mode: Literal["lss", "default"] = "default", edits: Mapping[str, Any] | None = None
    ) -> Result:
        """Import and simulate it; ``edits`` change the imported scenario (``cluster.lss.step...``)."""
        root = reference / "llmservingsim"
        source = LssSource(
            cluster=root / self.cluster,
            workload=root / self.workload,
            profiles=root / self.profiles,
            models=None if self.models is None else root / self.models,
            flags=self.flags,
            mode=mode,
            pim_configs=root / "configs" / "pim",
        )
        folder = Path.cwd()
        return simulate(import_scenario(source, folder).data, folder=folder, edits=edits)


def request_times(result: Result) -> RequestTimes:
    """Return the times of a result's completed requests."""
    columns = result.requests
    done = np.flatnonzero(np.asarray(columns["state"]) == "completed")
    arrival, first, finish, prompt, output = (np.asarray(columns[name])[done] for name in REQUEST_COLUMNS)
    return RequestTimes(arrival, first, finish, prompt, output)


def token_curve(result: Result) -> TokenCurve:
    """Return the output tokens of a result as a meter with one-second buckets sees them."""
    timeline = result.timeline
    start_s = np.asarray(timeline["time_s"], dtype=np.float64)
    return TokenCurve.from_rates(start_s + 1.0, np.asarray(timeline["output_tokens_per_s"], dtype=np.float64))
