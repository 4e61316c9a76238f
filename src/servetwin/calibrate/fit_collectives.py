"""Fits what collectives cost: ``python -m servetwin.calibrate.fit_collectives``. Needs ``servetwin[fit]`` (SciPy).

Per kind of link, to the NCCL tables and vLLM's all-reduce of ``aiconfigurator-core`` 0.12, on one system; the others
with the same links are held out. Deterministic: the same data give the same files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from servetwin.calibrate.collectives_fit import FitData, fit_costs, residuals_of
from servetwin.calibrate.collectives_tables import FITTED_ON, custom_rows, fitted_rows, judged, level_of, measured_rows
from servetwin.core.errors import InputError
from servetwin.network.aiconfigurator import TABLES_VARIABLE, tables_folder
from servetwin.network.costs import FOLDER, CollectiveCosts


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write the files, and report the errors."""
    parser = argparse.ArgumentParser(description="Fit what collectives cost to measured tables.")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the coefficients")
    options = parser.parse_args(arguments)
    folder = tables_folder()
    if folder is None:
        raise InputError(f"install aiconfigurator-core, or set {TABLES_VARIABLE} to its systems/data")
    for name, costs in fit_all(folder).items():
        write_costs(options.output / f"{name}.yaml", costs, FITTED_ON[name])
        _report(folder, name, costs)
    return 0


def fit_all(folder: Path, names: Sequence[str] = tuple(FITTED_ON)) -> Mapping[str, CollectiveCosts]:
    """Return the coefficients of kinds of links, keys of `FITTED_ON`."""
    return {
        name: fit_costs(FitData(level_of(system), fitted_rows(folder, system), custom_rows(folder, system)))
        for name, system in ((name, FITTED_ON[name]) for name in names)
    }


def write_costs(path: Path, costs: CollectiveCosts, system: str) -> None:
    """Write a file of coefficients: source, and each coefficient with unit, bounds and meaning."""
    lines = ["# Written by python -m servetwin.calibrate.fit_collectives; see docs/collectives.md.", "source:"]
    lines.append(f'  - "tables of collectives in aiconfigurator-core 0.12.0 (PyPI, Apache-2.0): {system}"')
    lines.append("coefficients:")
    for item in fields(CollectiveCosts):
        about = item.metadata
        note = f"{about['unit']}, {about['low']:g} to {about['high']:g}. {about['meaning']}"
        lines.append(f"  {item.name}: {getattr(costs, item.name):g}  # {note}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _report(folder: Path, name: str, costs: CollectiveCosts) -> None:
    system = FITTED_ON[name]
    for row in residuals_of(judged(system, costs), measured_rows(folder, system)):
        print(
            f"{system}: {row.operation} {row.ranks or ''}: median {row.median:.1%}, p90 {row.p90:.1%}, "
            f"bias {row.bias:+.1%} ({row.rows} rows)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
