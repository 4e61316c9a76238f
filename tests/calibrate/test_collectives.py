"""Fitting what collectives cost, and how far off the fitted formula is."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from servetwin.calibrate.collectives_cases import TARGET, collective_tables
from servetwin.calibrate.collectives_fit import START, FitData, fit_costs, model, predicted_ns, residuals_of
from servetwin.calibrate.fit_collectives import fit_all, write_costs
from servetwin.core.fields import read_document
from servetwin.network.aiconfigurator import TABLES_VARIABLE, CollectiveRow, tables_folder
from servetwin.network.costs import link_costs, read_costs
from servetwin.network.topology import Level

LEVEL = Level(name="link", size=8, bandwidth_bytes_per_s=400e9, one_kernel_ranks=8)
TRUE = replace(
    START, start_ns=6000, ll_step_ns=700, simple_efficiency=0.7, send_efficiency=0.5, one_kernel_step_ns=2500
)


def _rows(operations: tuple[str, ...], nccl_only: bool) -> list[CollectiveRow]:
    formula = model(LEVEL, TRUE, nccl_only=nccl_only)
    rows = [
        CollectiveRow(operation, ranks, 2.0**power, "half", 1.0)
        for operation in operations
        for ranks in (2, 8)
        for power in range(10, 29, 2)
    ]
    return [row._replace(time_ns=predicted_ns(formula, row)) for row in rows]


def test_a_fit_finds_what_made_the_data() -> None:
    """On times that the formula itself made, the fit ends with (almost) no errors and its coefficients."""
    nccl = _rows(("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), True)
    own = _rows(("all_reduce",), False)
    costs = fit_costs(FitData(LEVEL, nccl, own))
    assert residuals_of(model(LEVEL, costs, nccl_only=True), nccl)[-1].p90 < 0.02
    assert costs.simple_efficiency == pytest.approx(TRUE.simple_efficiency, rel=0.03)
    assert costs.send_efficiency == pytest.approx(TRUE.send_efficiency, rel=0.03)
    assert costs.start_ns == pytest.approx(TRUE.start_ns, rel=0.1)


def test_files_are_read_as_written(tmp_path: Path) -> None:
    """A written file gives the same coefficients."""
    path = tmp_path / "x.yaml"
    write_costs(path, link_costs("nvlink4"), "h100_sxm")
    assert read_costs(read_document(path), where=str(path)) == link_costs("nvlink4")


def test_residuals_by_hand() -> None:
    """Errors are shares of measured, by operation and ranks, and of all rows last."""
    formula = model(LEVEL, TRUE, nccl_only=True)
    rows = [row._replace(time_ns=row.time_ns / 1.1) for row in _rows(("all_gather", "all_reduce"), True)]
    found = residuals_of(formula, rows)
    assert [(row.operation, row.ranks) for row in found] == [
        ("all_gather", 2),
        ("all_gather", 8),
        ("all_reduce", 2),
        ("all_reduce", 8),
        ("all", 0),
    ]
    assert all(row.median == row.p90 == pytest.approx(0.1) for row in found)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is not there, there are no cases."""
    monkeypatch.delenv(TABLES_VARIABLE, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert collective_tables(Path()) == []


@pytest.mark.measured
def test_targets_on_h100() -> None:
    """Medians by operation and rank count are below the target; so is the 90th percentile of all rows."""
    if tables_folder() is None:
        pytest.skip(f"aiconfigurator-core is not installed, and {TABLES_VARIABLE} is not set")
    h100 = collective_tables(Path())[0]
    assert "h100" in h100.title
    assert not h100.missed
    (p90,) = (check.simulated for check in h100.checks if check.metric == "NCCL: all" and check.statistic == "p90")
    assert p90 < TARGET


@pytest.mark.measured
def test_coefficients_are_those_of_the_fit() -> None:
    """Fitting again gives the file that is here."""
    folder = tables_folder()
    if folder is None:
        pytest.skip(f"aiconfigurator-core is not installed, and {TABLES_VARIABLE} is not set")
    fitted = asdict(fit_all(folder, ("nvlink4",))["nvlink4"])
    assert fitted == pytest.approx(asdict(link_costs("nvlink4")), rel=0.02)
