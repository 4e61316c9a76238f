"""The affine step model, and runs of affine steps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.step.affine import AffineStepModel
from servetwin.step.affine_run import affine_run_ns, affine_step_ns
from servetwin.step.base import StepShape, step_models
from servetwin.testing.step_models import StepModelConformance


class TestConformance(StepModelConformance):
    """The affine model keeps the contract of step models."""

    def make(self) -> AffineStepModel:
        """Return a model with fractions of a nanosecond everywhere."""
        return AffineStepModel(1_000_000.3, 1_234.567, 89.01, 0.37)


def test_the_plane() -> None:
    """The duration is the plane's height at the step's counts: tokens 3 + 100, requests 3 + 1, context 60 + 40."""
    model = step_models.get("affine")(base_ns=1000, per_token_ns=10, per_sequence_ns=5, per_kv_token_ns=1)
    assert model.duration_ns(StepShape(3, 60, ((100, 40),))) == 1000 + 1030 + 20 + 100


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, True, "1"])
def test_coefficients_are_numbers_of_at_least_zero(value: float) -> None:
    """A negative, infinite or missing coefficient is refused by its name."""
    with pytest.raises(InputError, match="per_token_ns must be a number of at least 0"):
        AffineStepModel(per_token_ns=value)


@given(
    base_ns=st.floats(0, 1e8),
    slope_ns=st.floats(0, 1e3),
    kv_tokens=st.integers(0, 10**7),
    growth=st.integers(0, 1024),
    max_steps=st.integers(0, 300),
    limit_ns=st.integers(-1, 10**10),
)
def test_a_run_equals_a_loop(
    base_ns: float, slope_ns: float, kv_tokens: int, growth: int, max_steps: int, limit_ns: int
) -> None:
    """Short runs (a list) and long ones (NumPy) equal a plain loop, also at halves, zeros and limits of any size."""
    expected: list[int] = []
    for step in range(max_steps):
        expected.append(affine_step_ns(base_ns, slope_ns, kv_tokens + growth * step))
        if sum(expected) >= limit_ns:
            break
    assert list(affine_run_ns(base_ns, slope_ns, kv_tokens, growth, max_steps, limit_ns)) == expected


def test_halves_round_to_even_in_short_and_long_runs() -> None:
    """Ties round to even on both paths, as Python's round does."""
    short = list(affine_run_ns(0.5, 1.0, 2, 1, 10, 10**9))
    assert short == [2, 4, 4, 6, 6, 8, 8, 10, 10, 12]
    assert list(affine_run_ns(0.5, 1.0, 2, 1, 100, 10**9))[:10] == short
