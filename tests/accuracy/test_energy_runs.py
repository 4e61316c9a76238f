"""The targets of power and energy against measured data and LLMServingSim's own figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from servetwin.calibrate.case import CaseResult
from servetwin.calibrate.energy_cases import ENERGY_CASES

pytestmark = pytest.mark.measured


@pytest.mark.parametrize("case", ENERGY_CASES, ids=lambda case: case.__name__)
def test_targets_of_energy_are_met(reference: Path, case: Callable[[Path], list[CaseResult]]) -> None:
    """Every check that has a target meets it, and each case has such checks."""
    results = case(reference)
    judged = [check for result in results for check in result.checks if check.target is not None]
    assert judged
    assert [str(check) for result in results for check in result.missed] == []
