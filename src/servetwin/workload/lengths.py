"""How long prompts and outputs are: fixed, uniform, normal, log-normal, or drawn from a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from servetwin.core.random import stream
from servetwin.workload.files import read_length_column
from servetwin.workload.limits import MAX_TOKENS
from servetwin.workload.schema import Lengths, Options, Sigma, Times, Tokens, absolute


def whole_tokens(lengths: Times, low: int | None, high: int | None) -> Lengths:
    """Round to whole tokens and clamp to ``[low, high]`` (None: 1 and the longest length allowed)."""
    return np.clip(np.rint(lengths), low or 1, high or MAX_TOKENS).astype(np.int64)


class FixedLength(Options):
    """Every length is ``tokens``."""

    kind: Literal["fixed"] = "fixed"
    tokens: Tokens

    def draw(self, n: int, rng: np.random.Generator) -> Lengths:
        """Return ``n`` equal lengths."""
        return np.full(n, self.tokens, dtype=np.int64)


class _Ranged(Options):
    """A distribution that can be clamped."""

    min: Tokens | None = None
    max: Tokens | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is greater than max {self.max}")
        return self


class UniformLength(_Ranged):
    """Every whole number from ``min`` to ``max`` is equally likely."""

    kind: Literal["uniform"] = "uniform"
    min: Tokens
    max: Tokens

    def draw(self, n: int, rng: np.random.Generator) -> Lengths:
        """Return ``n`` lengths."""
        return rng.integers(self.min, self.max, size=n, endpoint=True, dtype=np.int64)


class NormalLength(_Ranged):
    """Normal with ``mean`` and ``std_dev``, rounded, clamped to ``[min, max]``."""

    kind: Literal["normal"] = "normal"
    mean: Annotated[float, Field(gt=0, le=MAX_TOKENS)]
    std_dev: Annotated[float, Field(ge=0, le=MAX_TOKENS)]

    def draw(self, n: int, rng: np.random.Generator) -> Lengths:
        """Return ``n`` lengths."""
        return whole_tokens(rng.normal(self.mean, self.std_dev, n), self.min, self.max)


class LogNormalLength(_Ranged):
    """Log-normal with arithmetic mean ``mean`` and standard deviation ``sigma`` of the logarithm.

    exp(N(mu, sigma^2)) has the mean exp(mu + sigma^2 / 2), so mu = ln(mean) - sigma^2 / 2. Rounded, then clamped to
    ``[min, max]``, which moves the mean where it cuts much off.
    """

    kind: Literal["lognormal"] = "lognormal"
    mean: Annotated[float, Field(ge=1, le=MAX_TOKENS)]
    sigma: Sigma

    def draw(self, n: int, rng: np.random.Generator) -> Lengths:
        """Return ``n`` lengths."""
        mu = math.log(self.mean) - self.sigma**2 / 2
        return whole_tokens(rng.lognormal(mu, self.sigma, n), self.min, self.max)


class EmpiricalLength(_Ranged):
    """Drawn, with replacement, from a column of a CSV file (``.csv`` or ``.csv.gz``).

    Where prompt and output name the same file, both come from the same row, so that they belong together.
    """

    kind: Literal["empirical"] = "empirical"
    path: Annotated[str, Field(min_length=1)]
    column: Annotated[str, Field(min_length=1)]

    def draw(self, n: int, rng: np.random.Generator) -> Lengths:
        """Return ``n`` lengths.

        Raises
        ------
        InputError
            If the file or the column is missing, or a value is no length.
        """
        values = read_length_column(Path(self.path), self.column, MAX_TOKENS)
        return np.clip(values[rng.integers(0, len(values), size=n)], self.min or 1, self.max or MAX_TOKENS)

    def at(self, folder: Path) -> Self:
        """Return the same options with an absolute path."""
        return self.model_copy(update={"path": absolute(self.path, folder)})


def _number_is_fixed(value: Any) -> Any:
    """Let a bare number stand for ``{kind: fixed, tokens: number}``."""
    return {"kind": "fixed", "tokens": value} if isinstance(value, int | float) else value


LengthOptions: TypeAlias = Annotated[
    Annotated[
        FixedLength | UniformLength | NormalLength | LogNormalLength | EmpiricalLength, Field(discriminator="kind")
    ],
    BeforeValidator(_number_is_fixed),
]
"""A distribution of lengths in tokens, or a number."""


def draw_pairs(prompt: LengthOptions, output: LengthOptions, n: int, seed: int) -> tuple[Lengths, Lengths]:
    """Return ``n`` prompt lengths and ``n`` output lengths; of the same rows where both come from one file."""
    prompts = prompt.draw(n, stream(seed, "workload", "prompt_tokens"))
    same_rows = (
        isinstance(prompt, EmpiricalLength) and isinstance(output, EmpiricalLength) and prompt.path == output.path
    )
    return prompts, output.draw(n, stream(seed, "workload", "prompt_tokens" if same_rows else "output_tokens"))
