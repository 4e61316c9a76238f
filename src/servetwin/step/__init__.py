"""Step models: how long one engine step takes."""

from servetwin.step import (  # registers the built-in models by name
    affine,
    fixed,
    operator_times,
    pim,
    profile,
    roofline,
)

__all__ = ["affine", "fixed", "operator_times", "pim", "profile", "roofline"]
