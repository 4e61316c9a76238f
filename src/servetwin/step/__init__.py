"""Step models: how long one engine step takes."""

from servetwin.step import affine, fixed, pim, profile, roofline  # registers the built-in models by name

__all__ = ["affine", "fixed", "pim", "profile", "roofline"]
