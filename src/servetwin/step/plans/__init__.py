"""Execution plans: how the parts of a step are put together."""

from servetwin.step.plans import lockstep, pipeline  # noqa: F401  (registers them)
