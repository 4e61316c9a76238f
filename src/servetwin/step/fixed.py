"""The stand-in for a step model: every step takes the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from servetwin.core.errors import InputError
from servetwin.step.base import StepModelBase, StepShape, step_models


@step_models.register("fixed")
class FixedLatency(StepModelBase):
    """Every step takes ``step_ns`` nanoseconds (a whole number, at least 1)."""

    def __init__(self, step_ns: int = 10_000_000) -> None:
        super().__init__()
        if isinstance(step_ns, bool) or not isinstance(step_ns, int) or step_ns < 1:
            raise InputError(f"step_ns must be a whole number of at least 1, got {step_ns!r}")
        self.step_ns = step_ns

    def breakdown_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the one part."""
        return {"fixed": float(self.step_ns)}

    def duration_ns(self, shape: StepShape) -> int:
        """Return the constant."""
        return self.step_ns

    def decode_run_ns(self, shape: StepShape, max_steps: int, limit_ns: int) -> Sequence[int]:
        """Return as many constants as reach the limit."""
        return [self.step_ns] * min(max_steps, max(1, -(-limit_ns // self.step_ns)))
