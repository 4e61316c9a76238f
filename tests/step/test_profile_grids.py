"""Repairing tables: isotonic regression, filling, refining; curves over one axis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from servetwin.step.profile.grids import fill, isotonic, monotone, refine, trimmed_length, without_holes
from servetwin.step.profile.kernel_curve import KernelCurve, kernel_changes
from servetwin.step.profile.monotone_curve import MonotoneCurve
from servetwin.step.profile.tables import Curve

values = st.lists(st.integers(0, 100), min_size=1, max_size=12).map(lambda v: np.array(v, dtype=float))


def pooled(line: NDArray[np.float64]) -> list[float]:
    """Return the isotonic regression of a line by pooling adjacent violators."""
    blocks: list[list[float]] = []
    for value in line:
        blocks.append([value, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            previous, before = blocks.pop()
            blocks.append([(mean * count + previous * before) / (count + before), count + before])
    return [mean for mean, count in blocks for _ in range(int(count))]


@given(values)
def test_isotonic_equals_pooling(line: NDArray[np.float64]) -> None:
    """The max-min formula gives what pooling adjacent violators gives."""
    assert isotonic(line, 0) == pytest.approx(pooled(line))


@given(st.integers(0, 10_000))
@settings(max_examples=50)
def test_monotone_in_all_axes(seed: int) -> None:
    """Smoothing one axis after another leaves a table that falls along none, and does not touch one that never fell."""
    table = np.random.default_rng(seed).uniform(0, 1, (4, 3, 5)).cumsum(axis=2)
    smooth = monotone(table)
    for axis in range(3):
        assert (np.diff(smooth, axis=axis) >= -1e-9).all()
    assert np.allclose(monotone(smooth), smooth)
    assert smooth.mean() == pytest.approx(table.mean())


def test_fill_is_exact_for_a_plane() -> None:
    """Missing cells of a linear table are found again: between, above and in lines without any."""
    x, y = np.array([1, 2, 4, 8, 16]), np.array([0, 10, 30, 100])
    plane = 5.0 + 3 * x[:, None] + 2 * y[None, :]
    holey = plane.copy()
    holey[2, 1:3] = holey[4] = holey[3, 3] = holey[0, 2] = np.nan
    assert fill(holey, [x, y], order=(1, 0)) == pytest.approx(plane)


def test_refine_follows_a_parabola() -> None:
    """Middles of a quadratic cost on a doubling grid lie on it."""
    x = np.array([128, 256, 512, 1024])
    table, grid = refine((10.0 + x + 0.01 * x**2)[:, None], x, 0)
    assert grid.tolist() == [128, 192, 256, 384, 512, 768, 1024]
    assert table[:, 0] == pytest.approx(10 + grid + 0.01 * grid**2)


def test_refined_middles_stay_between_their_neighbours() -> None:
    """A kink does not make the inserted samples leave the range of the step."""
    table, _ = refine(np.array([[1.0], [1.0], [50.0], [51.0]]), np.array([10, 20, 40, 80]), 0)
    assert (np.diff(table[:, 0]) >= 0).all()


def test_clamped_ends_and_holes() -> None:
    """A constant end is cut to its first sample, and cells far below the next one are replaced."""
    assert trimmed_length(np.array([[1.0, 2], [3, 4], [3, 4], [3, 4]]), 0) == 2
    assert without_holes(np.array([[8.0, 110, 110], [60, 110, 400]]), 1).tolist() == [[110, 110, 110], [60, 110, 400]]


counts = st.lists(st.integers(1, 4000), min_size=1, max_size=30, unique=True).map(sorted)


@given(counts, st.integers(0, 10_000), st.integers(1, 20_000), st.integers(0, 5000))
@settings(max_examples=200)
def test_more_tokens_never_take_less(at: list[int], seed: int, count: int, more: int) -> None:
    """A curve of any noisy samples falls nowhere, inside and beyond."""
    times = np.random.default_rng(seed).uniform(1, 1e6, len(at))
    curve = MonotoneCurve(Curve(np.array(at), times))
    assert curve(count + more) >= curve(count) * (1 - 1e-12)


def test_slope_beyond_is_robust() -> None:
    """One bad last sample does not decide how a line goes on."""
    at = np.arange(16, 2049, 16)
    times = 1000.0 + 50.0 * at
    times[-1] *= 0.8
    assert MonotoneCurve(Curve(at, times))(8192) == pytest.approx(1000 + 50 * 8192, rel=0.03)


def test_a_slow_kernel_is_kept_and_noise_is_not() -> None:
    """Twelve slow samples before a fall are a kernel of their own; eleven, or a fall by less than 3 %, are noise."""
    at = np.arange(1, 101)
    rise = 100.0 + 0.01 * at
    for width, part, kept in ((12, 1.2, True), (11, 1.2, False), (12, 1.02, False)):
        times = rise.copy()
        times[60 - width : 60] *= part
        curve = KernelCurve(Curve(at, times))
        assert bool(curve(60) == pytest.approx(times[59])) is kept
        assert bool(curve(61) < curve(60)) is kept
        assert list(kernel_changes(times)) == ([60] if kept else [])


@given(counts, st.integers(0, 10_000))
@settings(max_examples=100)
def test_few_samples_fall_nowhere(at: list[int], seed: int) -> None:
    """Below 24 samples a curve of kernels is the monotone one."""
    curve = Curve(np.array(at[:23]), np.random.default_rng(seed).uniform(1, 1e6, len(at[:23])))
    assert [KernelCurve(curve)(count) for count in at] == [MonotoneCurve(curve)(count) for count in at]
