"""How long a person thinks, or a tool runs, between two requests."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import BeforeValidator, Field

from servetwin.workload.limits import MAX_SECONDS
from servetwin.workload.schema import Options, Seconds, Sigma, Times

MeanSeconds: TypeAlias = Annotated[float, Field(gt=0, le=MAX_SECONDS)]


class FixedDelay(Options):
    """Always ``seconds``."""

    kind: Literal["fixed"] = "fixed"
    seconds: Seconds

    def draw(self, n: int, rng: np.random.Generator) -> Times:
        """Return ``n`` equal delays in seconds."""
        return np.full(n, self.seconds)


class ExponentialDelay(Options):
    """Exponential with mean ``mean_s``."""

    kind: Literal["exponential"] = "exponential"
    mean_s: MeanSeconds

    def draw(self, n: int, rng: np.random.Generator) -> Times:
        """Return ``n`` delays in seconds."""
        return rng.exponential(self.mean_s, n)


class LogNormalDelay(Options):
    """Log-normal with arithmetic mean ``mean_s`` and standard deviation ``sigma`` of the logarithm."""

    kind: Literal["lognormal"] = "lognormal"
    mean_s: MeanSeconds
    sigma: Sigma

    def draw(self, n: int, rng: np.random.Generator) -> Times:
        """Return ``n`` delays in seconds."""
        return rng.lognormal(math.log(self.mean_s) - self.sigma**2 / 2, self.sigma, n)


def _number_is_fixed(value: Any) -> Any:
    """Let a bare number stand for ``{kind: fixed, seconds: number}``."""
    return {"kind": "fixed", "seconds": value} if isinstance(value, int | float) else value


DelayOptions: TypeAlias = Annotated[
    Annotated[FixedDelay | ExponentialDelay | LogNormalDelay, Field(discriminator="kind")],
    BeforeValidator(_number_is_fixed),
]
"""A distribution of delays, or a number of seconds."""
