"""What the host adds to each step: scheduling, input preparation, sampling and output handling that nothing hides."""

from __future__ import annotations

from dataclasses import dataclass

from servetwin.core.units import NS_PER_US
from servetwin.step.base import StepShape


@dataclass(frozen=True, slots=True)
class HostOverhead:
    """Time of a step during which the accelerator waits for the host.

    Attributes
    ----------
    per_step_us
        Once per step.
    per_request_us
        For each request in the step.
    """

    per_step_us: float = 0.0
    per_request_us: float = 0.0

    def of_requests_ns(self, num_requests: int) -> float:
        """Return the overhead of a step with ``num_requests`` requests, in nanoseconds."""
        return (self.per_step_us + self.per_request_us * num_requests) * NS_PER_US

    def of_step_ns(self, shape: StepShape) -> float:
        """Return the overhead of a step, in nanoseconds."""
        return self.of_requests_ns(shape.num_sequences)


NO_HOST_OVERHEAD = HostOverhead()
