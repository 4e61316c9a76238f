"""Routed experts: which ones a step activates, and where they lie.

Shared experts run for every token on every rank and are not routed: they are operators of the model as any MLP is.
"""

from servetwin.step.experts import (  # registers the built-in routings and placements by name
    eplb,
    lss,
    placements,
    popular,
    round_robin,
    trace,
)

__all__ = ["eplb", "lss", "placements", "popular", "round_robin", "trace"]
