"""Execution plans: how the parts of a step are put together."""

from servetwin.step.plans import lockstep, lss_waves, pipeline, two_batch_overlap  # noqa: F401  (registers them)
