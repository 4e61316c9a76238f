"""Distributions of counts by their mean and variance, and the expected maximum of several counts.

A sum of drawn pairs is less spread than a Poisson count (no expert is taken twice) or more (neighbouring tokens agree).
The (a, b, 0) class of Panjer (1981) holds binomial, Poisson and negative binomial in one recursion,
``p(x) = (a + b / x) p(x - 1)``, so one mean and variance give the whole distribution.
"""

from __future__ import annotations

import math

import numpy as np

from servetwin.step.experts.base import Floats

_WIDEST_COUNTS = 160
"""Counts up to this one are taken one by one; where they are greater, the skewed normal curve is used."""
_POINTS = 129
_CURVE_Z = np.linspace(-9.0, 9.0, 3601)
_CURVE = np.array([0.5 * math.erfc(-z / math.sqrt(2.0)) for z in _CURVE_Z])


def count_distribution(mean: Floats, variance: Floats) -> Floats:
    """Return probabilities of the counts 0, 1, 2, ..., to 8 standard deviations above the greatest mean.

    Parameters
    ----------
    mean, variance
        Of each distribution, shape ``(...)``. A variance below the mean gives a binomial distribution with that mean,
        over a whole number of trials (so that its variance may be a little more).

    Returns
    -------
    numpy.ndarray
        Shape ``(..., counts)``.
    """
    mean = np.maximum(mean, 1e-12)
    a, b = _recursion(mean, np.maximum(variance, 1e-12))
    most = math.ceil(float((mean + 8.0 * np.sqrt(variance) + 8.0).max()))
    x = np.arange(1, most + 1)
    ratios = np.maximum(a[..., None] + b[..., None] / x, 1e-300)
    logs = np.concatenate((np.zeros((*mean.shape, 1)), np.cumsum(np.log(ratios), axis=-1)), axis=-1)
    weights: Floats = np.exp(logs - logs.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def _recursion(mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
    under = np.maximum(mean - variance, 1e-9 * mean)
    trials = np.maximum(np.ceil(mean * mean / under - 1e-6), np.ceil(mean - 1e-9))
    chance = np.minimum(mean / np.maximum(trials, 1e-12), 1.0 - 1e-12)
    odds = chance / (1.0 - chance)
    over = 1.0 - mean / variance
    binomial = variance < mean
    return np.where(binomial, -odds, over), np.where(binomial, (trials + 1.0) * odds, mean * (1.0 - over) - over)


def expected_maximum(mean: Floats, variance: Floats) -> Floats:
    """Return the expected maximum over the last axis of independent counts.

    ``E[max] = sum over x of 1 - product over ranks of P(count <= x)``. Small counts are taken one by one; great ones by
    the normal curve with the first Cornish-Fisher term for their skewness, ``(2 variance / mean - 1) / deviation``.

    Parameters
    ----------
    mean, variance
        Shape ``(..., ranks)``.
    """
    if mean.shape[-1] == 1:
        return mean[..., 0]
    if float((mean + 8.0 * np.sqrt(variance)).max()) <= _WIDEST_COUNTS:
        below = np.minimum(np.cumsum(count_distribution(mean, variance), axis=-1), 1.0)
        highest: Floats = (1.0 - below.prod(axis=-2)).sum(axis=-1)
    else:
        highest = _of_curves(mean, np.sqrt(np.maximum(variance, 1e-12)))
    return np.asarray(np.maximum(highest, mean.max(axis=-1)))


def _of_curves(mean: Floats, deviation: Floats) -> Floats:
    """Return the expected maximum of counts so great that they are nearly normal: the trapezium rule."""
    low = (mean - 6.0 * deviation).max(axis=-1, keepdims=True)
    high = (mean + 7.0 * deviation).max(axis=-1, keepdims=True)
    x = low + (high - low) * np.linspace(0.0, 1.0, _POINTS)
    skewness = np.clip((2.0 * deviation * deviation / np.maximum(mean, 1e-12) - 1.0) / deviation, -0.5, 0.5)
    y = np.clip((x[..., None, :] - mean[..., None]) / deviation[..., None], -8.0, 8.0)
    z = y - skewness[..., None] * (np.minimum(y * y, 9.0) - 1.0) / 6.0
    above = 1.0 - np.interp(z, _CURVE_Z, _CURVE).prod(axis=-2)
    step = (high - low)[..., 0] / (_POINTS - 1)
    area: Floats = low[..., 0] + step * (above.sum(axis=-1) - 0.5 * (above[..., 0] + above[..., -1]))
    return area
