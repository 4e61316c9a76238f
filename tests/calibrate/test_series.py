"""Token curves: shares, bins, errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.calibrate.series import TokenCurve, binned_wape, wape

rates = st.lists(st.floats(0.5, 1e4), min_size=2, max_size=40)


def curve(values: list[float]) -> TokenCurve:
    """Return the curve of rates in one-second buckets."""
    return TokenCurve.from_rates(np.arange(1, len(values) + 1), values)


@given(rates, st.floats(0.01, 1))
def test_the_time_of_a_share_inverts_the_curve(values: list[float], share: float) -> None:
    """So many of the tokens are out at that time."""
    tokens = curve(values)
    assert tokens.until([tokens.time_of_share(share)])[0] == pytest.approx(share * tokens.total, rel=1e-9)


@given(rates)
def test_wape_of_a_curve_against_itself_is_zero(values: list[float]) -> None:
    """And of twice as many tokens it is one, or zero once each is divided by its own total."""
    tokens, double = curve(values), curve([2 * value for value in values])
    assert binned_wape(tokens, tokens, 3) == 0
    assert binned_wape(tokens, double, 3) == pytest.approx(1)
    assert binned_wape(tokens, double, 3, normalised=True) == pytest.approx(0, abs=1e-9)


@given(rates, st.integers(1, 5))
def test_bins_lose_no_tokens(values: list[float], later: int) -> None:
    """A curve shifted beyond the other's end differs by all tokens of both."""
    tokens = curve(values)
    away = TokenCurve(tokens.time_s + len(values) * 3 * later + 3, tokens.tokens)
    assert binned_wape(tokens, away, 3) == pytest.approx(2, rel=1e-6)


def test_single_tokens_are_counted_in_buckets() -> None:
    """A token at a bucket's end belongs to it."""
    tokens = TokenCurve.from_token_times([0.5, 1.0, 1.5, 3.2])
    assert tokens.until([0, 1, 2, 3, 4]).tolist() == [0, 2, 3, 3, 4]
    assert tokens.total == 4


def test_wape_is_by_the_measured_sum() -> None:
    """Large values weigh more than small ones."""
    assert wape([100, 1], [90, 2]) == pytest.approx(11 / 101)
