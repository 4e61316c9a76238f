"""The fixed step model."""

from __future__ import annotations

import pytest

from servetwin.core.errors import InputError
from servetwin.step.base import StepShape, step_models
from servetwin.step.fixed import FixedLatency
from servetwin.testing.step_models import StepModelConformance


class TestConformance(StepModelConformance):
    """The fixed model keeps the contract of step models."""

    def make(self) -> FixedLatency:
        """Return a model with a prime number of nanoseconds."""
        return FixedLatency(9_999_991)


def test_it_is_registered() -> None:
    """The name ``fixed`` gives the model, with its option."""
    assert step_models.get("fixed")(step_ns=7).duration_ns(StepShape(3, 100)) == 7


@pytest.mark.parametrize("step_ns", [0, -1, 1.5, True])
def test_a_step_takes_whole_nanoseconds(step_ns: int) -> None:
    """Anything but a positive whole number is refused."""
    with pytest.raises(InputError, match="step_ns must be a whole number of at least 1"):
        FixedLatency(step_ns)
