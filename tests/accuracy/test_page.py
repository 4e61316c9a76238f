"""The accuracy page: what it says of targets that are met and missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from servetwin.calibrate.accuracy import accuracy_page, reference_folder
from servetwin.calibrate.case import CaseResult, Check, excess_check, percent_check, points_check
from servetwin.core.errors import InputError

CHECKS = [
    percent_check("ttft", "mean", "ms", 100.0, 101.0, 2.5),
    percent_check("e2e", "p99", "ms", 100.0, 95.0, 2.0),
    percent_check("itl", "mean", "ms", 100.0, 50.0, None),
]


def test_missed_targets_come_first_and_are_counted() -> None:
    """Nothing is left out: not what misses, not what has no target."""
    page = accuracy_page([CaseResult("Case", CHECKS, ["A remark."])])
    assert "1 of 2 targets are met." in page
    assert "- Case: e2e p99: -5.00 %, target 2" in page
    assert "| e2e | p99 | 100.00 ms | 95.00 ms | -5.00 % | 2 | **no** |" in page
    assert "| itl | mean | 100.00 ms | 50.00 ms | -50.00 % | – | – |" in page
    assert "A remark." in page
    assert page.index("missed") < page.index("## Case")


def test_targets_bound_the_absolute_error() -> None:
    """On both sides, and an error that is no number meets none."""
    assert [check.met for check in CHECKS] == [True, False, None]
    assert percent_check("a", "b", "", 100.0, 98.5, 2.0).met
    assert Check("a", "b", "", 0.0, 1.0, float("nan"), 1.0).met is False


def test_points_and_excess() -> None:
    """Differences of percentages; only more than the reference simulator's error counts as excess."""
    assert points_check("a", "b", -4.0, -4.4, 0.5).error == pytest.approx(-0.4)
    assert excess_check("wape", 3.0, 2.0, 0.3).met
    assert excess_check("wape", 3.0, 3.29, 0.3).met
    assert not excess_check("wape", 3.0, 3.31, 0.3).met


def test_without_reference_data_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder is found beside the checkout, or where SERVETWIN_SHARED points."""
    monkeypatch.setenv("SERVETWIN_SHARED", str(tmp_path))
    with pytest.raises(InputError, match="SERVETWIN_SHARED"):
        reference_folder()
    (tmp_path / "reference" / "llmservingsim").mkdir(parents=True)
    assert reference_folder() == tmp_path / "reference"
