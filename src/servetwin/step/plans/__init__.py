"""Execution plans: how the parts of a step are put together."""

from servetwin.step.plans import (  # noqa: F401  (registers them)
    attention_ffn,
    lockstep,
    lss_waves,
    pipeline,
    two_batch_overlap,
)
