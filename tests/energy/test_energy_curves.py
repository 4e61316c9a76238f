"""Power as constant pieces: sums, means over intervals and integrals agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.energy.curves import PowerCurve, constant, pulses, total

PULSES = st.lists(st.tuples(st.integers(0, 10**10), st.integers(0, 10**9), st.floats(0, 1e4)), min_size=0, max_size=30)


def curve_of(rows: list[tuple[int, int, float]]) -> PowerCurve:
    """Return the sum of some pulses (start, length, watts)."""
    rows = sorted(rows)
    start = np.array([row[0] for row in rows], dtype=np.int64)
    length = np.array([row[1] for row in rows], dtype=np.int64)
    return pulses(start, start + length, np.array([row[2] for row in rows], dtype=np.float64))


@given(PULSES)
def test_pulses_hold_their_energy(rows: list[tuple[int, int, float]]) -> None:
    """However pulses overlap, the integral of their sum is the sum of their integrals."""
    expected = sum(length * watts for _, length, watts in rows) / 1e9
    assert curve_of(rows).energy_j == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(PULSES, st.integers(1, 40))
def test_any_resolution_holds_the_same_energy(rows: list[tuple[int, int, float]], count: int) -> None:
    """Mean powers over intervals of any length integrate to the curve's energy."""
    curve = curve_of(rows)
    bounds = np.linspace(0, 1.2e10, count + 1).astype(np.int64)
    energy = float((curve.binned(bounds) * np.diff(bounds)).sum()) / 1e9
    assert energy == pytest.approx(curve.energy_j, rel=1e-9, abs=1e-6)


@given(PULSES, PULSES)
def test_a_sum_of_curves_is_exact(one: list[tuple[int, int, float]], other: list[tuple[int, int, float]]) -> None:
    """Its energy up to any time is that of both."""
    curves = [curve_of(one), curve_of(other)]
    times = np.linspace(0, 1.2e10, 17).astype(np.int64)
    expected = curves[0].until(times) + curves[1].until(times)
    assert total(curves).until(times) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_nothing_has_no_power() -> None:
    """A curve without pieces is zero everywhere, and sums of none are."""
    nothing = total([])
    assert nothing.energy_j == nothing.peak_w == 0
    assert nothing.until(np.array([0, 5])).tolist() == [0, 0]


def test_a_peak_must_last() -> None:
    """A piece without duration is no peak."""
    curve = PowerCurve(np.array([0, 10, 10, 20]), np.array([1.0, 99.0, 2.0]))
    assert curve.peak_w == 2.0
    assert constant(3.0, 10**9).energy_j == 3.0
