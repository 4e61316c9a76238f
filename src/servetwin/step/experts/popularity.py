"""Popularities of experts: the chance of each to be among a token's, from a law or a measured file."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from servetwin.core.errors import InputError, unknown_name
from servetwin.step.experts.base import Floats

COLUMNS = ("layer", "expert", "share")


def zipf_inclusion(num_experts: int, top_k: int, exponent: float) -> Floats:
    """Return chances proportional to ``1 / rank^exponent``, the most popular expert first.

    They sum to ``top_k``. A chance cannot be above 1: what would be is 1, and the rest is scaled up again.
    """
    weights = np.arange(1, num_experts + 1, dtype=np.float64) ** -exponent
    for sure in range(top_k + 1):
        rest = weights[sure:] * ((top_k - sure) / max(float(weights[sure:].sum()), 1e-300))
        if not len(rest) or rest[0] <= 1.0 + 1e-12:
            return np.concatenate((np.ones(sure), np.minimum(rest, 1.0)))
    raise AssertionError("with top_k experts sure, none is left to share")  # rest is then all 0


def read_popularity(path: Path, num_layers: int, num_experts: int, top_k: int) -> Floats:
    """Return the chances of a CSV file ``layer,expert,share``, shape ``(layers, experts)``.

    A share is an expert's part of a layer's (token, expert) pairs; a layer's sum to 1. Experts that are not named have
    none. A file with layer 0 alone holds for all layers.

    Raises
    ------
    InputError
        With file and line, for values that are no numbers or out of range, shares that do not sum to 1, layers that are
        missing, or a share above ``1 / top_k``, which no expert can have.
    """
    shares = np.full((num_layers, num_experts), math.nan)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file, strict=True)
            _check_header(next(rows, []), path)
            for row in rows:
                if row:
                    _put(shares, row, f"{path}:{rows.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None
    given = ~np.isnan(shares).all(axis=1)
    if given.sum() == 1 and given[0]:
        shares = shares[:1]
    elif not given.all():
        missing = int(np.flatnonzero(~given)[0])
        message = f"has {given.sum()} of {num_layers} layers with experts; layer {missing} is missing"
        raise InputError(f"{message} (give all, or layer 0 alone for all)", where=str(path))
    return check_shares(np.nan_to_num(shares), top_k, str(path)) * top_k


def check_shares(shares: Floats, top_k: int, where: str) -> Floats:
    """Return shares that sum to 1 in each layer, to the last bit; raise where they are not near it."""
    sums = shares.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1.0) > 1e-3)
    if len(wrong):
        raise InputError(f"the shares of layer {wrong[0]} sum to {sums[wrong[0]]:.6g}; they must sum to 1", where=where)
    shares = shares / sums[:, None]
    layer, expert = np.unravel_index(int(shares.argmax()), shares.shape)
    if shares[layer, expert] > 1.0 / top_k + 1e-6:
        raise InputError(
            f"expert {expert} of layer {layer} has a share of {shares[layer, expert]:.6g} of the pairs; with {top_k} "
            f"different experts per token none has more than 1/{top_k} = {1 / top_k:.6g}",
            where=where,
        )
    return np.minimum(shares, 1.0 / top_k)


def _check_header(header: list[str], path: Path) -> None:
    for name in header:
        if name.strip() not in COLUMNS:
            raise unknown_name("column", name, COLUMNS, where=f"{path}:1")
    if tuple(name.strip() for name in header) != COLUMNS:
        raise InputError(f"the first line must be {','.join(COLUMNS)}", where=f"{path}:1")


def _put(shares: Floats, row: list[str], where: str) -> None:
    if len(row) != len(COLUMNS):
        raise InputError(f"has {len(row)} values, but there are {len(COLUMNS)} columns", where=where)
    layer = whole_number(row[0], "layer", shares.shape[0], where)
    expert = whole_number(row[1], "expert", shares.shape[1], where)
    try:
        share = float(row[2])
    except ValueError:
        share = math.nan
    if not 0.0 <= share <= 1.0:
        raise InputError(f"share is {row[2]!r}; allowed: numbers of 0 to 1", where=where)
    if not math.isnan(shares[layer, expert]):
        raise InputError(f"layer {layer}, expert {expert} stands twice", where=where)
    shares[layer, expert] = share


def whole_number(text: str, name: str, below: int, where: str) -> int:
    """Return a whole number from 0 to below a limit that the model sets."""
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise InputError(f"{name} is {text!r}; allowed: whole numbers from 0", where=where)
    if int(digits) >= below:
        raise InputError(
            f"{name} is {digits}, but this model has {name}s 0 to {below - 1}: the file is of another model",
            where=where,
        )
    return int(digits)
