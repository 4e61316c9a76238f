"""When requests (or sessions) arrive."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol, Self, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from servetwin.workload.delays import DelayOptions, FixedDelay
from servetwin.workload.limits import MAX_REQUESTS
from servetwin.workload.schema import Count, Options, Rate, Seconds, Times


class OpenArrivals(Protocol):
    """Arrivals that do not depend on how fast the system answers."""

    @property
    def total(self) -> int | None:
        """How many arrive at most, where the options themselves say it."""
        ...

    def draw(self, n: int, rng: np.random.Generator) -> Times:
        """Return the first ``n`` arrival times in seconds, ascending (fewer where there are fewer)."""
        ...


class _Steady(Options):
    """A process without an end: the workload's ``requests`` says how many arrive."""

    rate_per_s: Rate
    start_s: Seconds = 0.0

    @property
    def total(self) -> int | None:
        """None: the process has no end."""
        return None


class ConstantArrivals(_Steady):
    """One arrival every ``1 / rate_per_s`` seconds, the first at ``start_s``."""

    kind: Literal["constant"] = "constant"

    def draw(self, n: int, rng: np.random.Generator) -> Times:
        """Return ``n`` arrival times in seconds."""
        return self.start_s + np.arange(n) / self.rate_per_s


class PoissonArrivals(_Steady):
    """Exponential gaps with mean ``1 / rate_per_s``; the first gap begins at ``start_s``."""

    kind: Literal["poisson"] = "poisson"

    def draw(self, n: int, rng: np.random.Generator) -> Times:
        """Return ``n`` arrival times in seconds."""
        return self.start_s + np.cumsum(rng.exponential(1 / self.rate_per_s, n))


class GammaArrivals(_Steady):
    """Gamma gaps with mean ``1 / rate_per_s`` and coefficient of variation ``cv`` (1: Poisson, more: bursts).

    A gamma variable of shape k has the coefficient of variation 1 / sqrt(k).
    """

    kind: Literal["gamma"] = "gamma"
    cv: Annotated[float, Field(ge=0.001, le=100)]

    def draw(self, n: int, rng: np.random.Generator) -> Times:
        """Return ``n`` arrival times in seconds."""
        shape = 1 / self.cv**2
        return self.start_s + np.cumsum(rng.gamma(shape, 1 / (shape * self.rate_per_s), n))


class LoadStage(Options):
    """``rate_per_s`` for ``duration_s``; 0 is a pause."""

    rate_per_s: Annotated[float, Field(ge=0, le=1e9)]
    duration_s: Annotated[float, Field(gt=0, le=1e9)]


class StagedArrivals(Options):
    """Load stages, one after the other.

    ``process`` is ``"constant"`` (evenly spaced), ``"poisson"`` (a random number of arrivals), or ``"scattered"``
    (rate x duration arrivals at random times, what inference-perf calls constant: exponential gaps that are scaled
    to fill the stage).
    """

    kind: Literal["stages"] = "stages"
    stages: Annotated[list[LoadStage], Field(min_length=1, max_length=100_000)]
    process: Literal["constant", "poisson", "scattered"] = "constant"
    start_s: Seconds = 0.0

    @model_validator(mode="after")
    def _some_but_not_too_many(self) -> Self:
        expected = sum(stage.rate_per_s * stage.duration_s for stage in self.stages)
        if not 1 <= expected <= MAX_REQUESTS:
            raise ValueError(f"the stages give {expected:g} arrivals; allowed: 1 to {MAX_REQUESTS}")
        return self

    @property
    def total(self) -> int | None:
        """More than any draw gives: all arrivals of the stages are wanted unless ``requests`` says fewer."""
        return 2 * MAX_REQUESTS

    def draw(self, n: int, rng: np.random.Generator) -> Times:
        """Return the first ``n`` arrival times in seconds."""
        ends = self.start_s + np.cumsum([stage.duration_s for stage in self.stages])
        parts = [
            end - stage.duration_s + self._within(stage, rng) for stage, end in zip(self.stages, ends, strict=True)
        ]
        return np.concatenate(parts)[:n]

    def _within(self, stage: LoadStage, rng: np.random.Generator) -> Times:
        """Return the times of one stage, from its start."""
        expected = stage.rate_per_s * stage.duration_s
        if self.process == "poisson":
            return np.sort(rng.uniform(0, stage.duration_s, rng.poisson(expected)))
        count = int(expected + 1e-9)
        if self.process == "constant" or count == 0:
            return np.arange(count) / max(stage.rate_per_s, 1e-9)
        ends: Times = np.cumsum(rng.exponential(1.0, count))
        return ends * (stage.duration_s / float(ends[-1]))


class PulsedArrivals(Options):
    """Bursts of ``requests_per_pulse``, the next one ``gap_s`` after the last arrival of the one before.

    Inside a pulse the gaps are exponential with mean ``1 / rate_per_s``; without a rate all arrive at once.
    """

    kind: Literal["pulses"] = "pulses"
    pulses: Count
    requests_per_pulse: Count
    gap_s: Seconds
    rate_per_s: Rate | None = None
    start_s: Seconds = 0.0

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        if self.pulses * self.requests_per_pulse > MAX_REQUESTS:
            raise ValueError(
                f"{self.pulses} pulses x {self.requests_per_pulse} requests; allowed: up to {MAX_REQUESTS}"
            )
        return self

    @property
    def total(self) -> int | None:
        """All requests of all pulses."""
        return self.pulses * self.requests_per_pulse

    def draw(self, n: int, rng: np.random.Generator) -> Times:
        """Return the first ``n`` arrival times in seconds."""
        shape = (self.pulses, self.requests_per_pulse)
        gaps = rng.exponential(1 / self.rate_per_s, shape) if self.rate_per_s else np.zeros(shape)
        gaps[:, 0] = self.gap_s
        gaps[0, 0] = 0.0
        return self.start_s + np.cumsum(gaps.ravel())[:n]


class ClosedLoop(Options):
    """``concurrency`` clients, each of which sends its next request (or session) ``think_s`` after the last ended."""

    kind: Literal["closed_loop"] = "closed_loop"
    concurrency: Count
    think_s: DelayOptions = FixedDelay(seconds=0.0)

    @property
    def total(self) -> int | None:
        """None: the loop has no end."""
        return None


ArrivalOptions: TypeAlias = Annotated[
    ConstantArrivals | PoissonArrivals | GammaArrivals | StagedArrivals | PulsedArrivals | ClosedLoop,
    Field(discriminator="kind"),
]
"""How requests (or sessions) arrive."""
