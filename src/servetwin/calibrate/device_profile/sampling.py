"""How often something is run, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """When to stop.

    Attributes
    ----------
    warm_up_runs, warm_up_s
        Runs before the first sample: as many, and for as long.
    min_samples, min_s, max_samples
        Samples are taken until there are ``min_samples`` that together took ``min_s``, and never more than
        ``max_samples``.
    max_s
        No further sample once they took this long together, and at least one stands.
    """

    warm_up_runs: int = 3
    warm_up_s: float = 0.02
    min_samples: int = 7
    min_s: float = 0.05
    max_samples: int = 100
    max_s: float = 5.0


QUICK_PLAN = Plan(warm_up_runs=1, warm_up_s=0.0, min_samples=3, min_s=0.005, max_samples=20, max_s=1.0)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Median and spread of samples, in their own unit."""

    median: float
    p10: float
    p90: float
    samples: int


def take_samples(run_s: Callable[[], float], plan: Plan) -> list[float]:
    """Return the seconds of each run after the warm-up.

    Parameters
    ----------
    run_s
        Runs once and returns how long it took, in seconds.
    plan
        When to stop.
    """
    warm_s, runs = 0.0, 0
    while runs < plan.warm_up_runs or (warm_s < plan.warm_up_s and runs < plan.max_samples):
        warm_s += run_s()
        runs += 1
    samples: list[float] = []
    total_s = 0.0
    while len(samples) < plan.max_samples and (len(samples) < plan.min_samples or total_s < plan.min_s):
        samples.append(run_s())
        total_s += samples[-1]
        if total_s >= plan.max_s:
            break
    return samples


def statistics_of(samples: Sequence[float]) -> Statistics:
    """Return the median and the 10th and 90th percentile (linear between samples) of at least one sample."""
    ordered = sorted(samples)
    return Statistics(_quantile(ordered, 0.5), _quantile(ordered, 0.1), _quantile(ordered, 0.9), len(ordered))


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
