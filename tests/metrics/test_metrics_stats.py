"""Mean and percentiles, of plain and of weighted values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive_metrics import statistics

from servetwin.metrics.stats import QUANTILES, STATISTICS, describe, describe_weighted

finite = st.floats(0, 1e6, allow_nan=False)


@given(st.lists(finite, min_size=1, max_size=50))
def test_describe_equals_numpy(values: list[float]) -> None:
    """Mean and percentiles are those of numpy's linear interpolation."""
    assert describe(values) == pytest.approx(statistics(values), rel=1e-12, abs=1e-12)


@given(st.lists(st.tuples(finite, st.integers(0, 7)), max_size=30))
def test_weighted_equals_expanded(pairs: list[tuple[float, int]]) -> None:
    """Weighted statistics are those of the list in which each value stands as often as its weight says."""
    values, weights = np.array([v for v, _ in pairs]), np.array([w for _, w in pairs], dtype=np.int64)
    expanded = [value for value, weight in pairs for _ in range(weight)]
    weighted = describe_weighted(values, weights)
    if expanded:
        assert weighted == pytest.approx(statistics(expanded), rel=1e-12, abs=1e-12)
    else:
        assert weighted == dict.fromkeys(STATISTICS)


def test_undefined_values_are_left_out() -> None:
    """NaN counts for nothing, and without any number all statistics are None."""
    assert describe([3.0, np.nan, 1.0]) == describe([1.0, 3.0])
    assert describe([np.nan]) == describe([]) == dict.fromkeys(STATISTICS)


def test_equal_neighbours_are_not_blurred() -> None:
    """A percentile between two equal values is exactly that value."""
    values = describe([0.1] * 7)
    assert [values[name] for name in QUANTILES] == [0.1] * 4
