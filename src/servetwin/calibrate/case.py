"""What the accuracy page is made of: cases, and the checks of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path


@dataclass(frozen=True)
class Check:
    """One number held against its target.

    Attributes
    ----------
    metric, statistic
        What it is.
    unit
        Of ``measured`` and ``simulated``.
    error, error_unit
        The figure that has a target: an error in percent of measured, a difference in percentage points, a WAPE.
    target
        Greatest absolute error that is allowed; None: reported without a target.
    """

    metric: str
    statistic: str
    unit: str
    measured: float
    simulated: float
    error: float
    target: float | None
    error_unit: str = "%"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else bool(isfinite(self.error) and abs(self.error) <= self.target)


@dataclass(frozen=True)
class CaseResult:
    """The checks of one case, and what a reader should know of it."""

    title: str
    checks: Sequence[Check]
    remarks: Sequence[str] = field(default_factory=tuple)

    @property
    def missed(self) -> list[Check]:
        """Checks whose target is not met."""
        return [check for check in self.checks if check.met is False]


Case = Callable[[Path], list[CaseResult]]
"""Runs something on the reference data (the folder ``reference/``) and compares it."""


def percent_check(
    metric: str, statistic: str, unit: str, measured: float, simulated: float, target: float | None
) -> Check:
    """Return a check of the error in percent of measured."""
    return Check(metric, statistic, unit, measured, simulated, (simulated / measured - 1) * 100, target)


def points_check(metric: str, statistic: str, measured: float, simulated: float, target: float | None) -> Check:
    """Return a check of two percentages, by their difference in percentage points."""
    return Check(metric, statistic, "%", measured, simulated, simulated - measured, target, "points")


def excess_check(metric: str, reference: float, simulated: float, target: float) -> Check:
    """Return a check of an error (in percent) that may exceed the reference simulator's by ``target`` points.

    Only more than the reference's error counts: a smaller one meets any target.
    """
    return Check(metric, "", "%", reference, simulated, max(0.0, simulated - reference), target, "points")
