"""Recorded routing: which experts each token of a real run took, from a CSV or NumPy file."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from servetwin.core.errors import InputError, unknown_name
from servetwin.step.experts.placements import Integers
from servetwin.step.experts.popularity import whole_number

_MOST = 2**40


@dataclass(frozen=True, slots=True)
class RoutingTrace:
    """A recorded routing.

    Attributes
    ----------
    experts
        Expert numbers, shape ``(tokens, layers, top_k)``, in the order of the run.
    first_token
        Where each recorded step begins among the tokens, shape ``(steps,)``.
    """

    experts: Integers
    first_token: Integers


def read_trace(path: Path, num_layers: int, num_experts: int, top_k: int) -> RoutingTrace:
    """Read a trace.

    ``.npz``: array ``experts`` of shape ``(tokens, layers, top_k)`` and, if steps are known, ``step`` of shape
    ``(tokens,)``, never falling. ``.csv``: a line ``step,token,layer,expert_0,expert_1,...`` per token and layer, in
    the order of step, token, layer. Layers are those with experts, counted from 0.

    Raises
    ------
    InputError
        If the file cannot be read, or is of another model; with the numbers.
    """
    try:
        experts, step = _read_npz(path) if path.suffix == ".npz" else _read_csv(path, num_layers, num_experts, top_k)
    except (OSError, UnicodeDecodeError, csv.Error, zipfile.BadZipFile) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None
    _check(experts, (num_layers, num_experts, top_k), str(path))
    if step.shape != experts.shape[:1] or np.any(np.diff(step) < 0):
        raise InputError(f"step must have {len(experts)} values that never fall", where=str(path))
    return RoutingTrace(experts, np.flatnonzero(np.diff(step, prepend=step[0] - 1)))


def _check(experts: Integers, model: tuple[int, int, int], where: str) -> None:
    layers, num_experts, top_k = model
    if experts.ndim != 3 or not len(experts) or not np.issubdtype(experts.dtype, np.integer):
        raise InputError("experts must be whole numbers of shape (tokens, layers, top_k)", where=where)
    if experts.shape[1:] != (layers, top_k):
        raise InputError(
            f"the trace has {experts.shape[1]} layers with {experts.shape[2]} experts per token, this model {layers} "
            f"with {top_k}: it is of another model",
            where=where,
        )
    if experts.min() < 0 or experts.max() >= num_experts:
        raise InputError(
            f"the trace names experts {experts.min()} to {experts.max()}, this model has 0 to {num_experts - 1}: it is "
            "of another model",
            where=where,
        )
    twice = (np.diff(np.sort(experts, axis=2), axis=2) == 0).any(axis=2)
    if twice.any():
        token, layer = np.argwhere(twice)[0]
        raise InputError(f"token {token} takes an expert twice in layer {layer}: {experts[token, layer]}", where=where)


def _read_npz(path: Path) -> tuple[Integers, Integers]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "experts" not in arrays:
                raise unknown_name("set of arrays", ", ".join(arrays.files), ["experts", "step"], where=str(path))
            experts = arrays["experts"]
            step = arrays["step"] if "step" in arrays else np.zeros(len(experts), dtype=np.int64)
    except ValueError as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None
    return experts, step


def _read_csv(path: Path, num_layers: int, num_experts: int, top_k: int) -> tuple[Integers, Integers]:
    header = ["step", "token", "layer", *(f"expert_{number}" for number in range(top_k))]
    limits = [_MOST, _MOST, num_layers, *[num_experts] * top_k]
    table: list[list[int]] = []
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file, strict=True)
        if (given := [name.strip() for name in next(rows, [])]) != header:
            raise InputError(f"the first line must be {','.join(header)}, not {','.join(given)}", where=f"{path}:1")
        names = ["step", "token", "layer", *["expert"] * top_k]
        for row in filter(None, rows):
            where = f"{path}:{rows.line_num}"
            if len(row) != len(header):
                raise InputError(f"has {len(row)} values, but there are {len(header)} columns", where=where)
            table.append([whole_number(*cell, where) for cell in zip(row, names, limits, strict=True)])
            if table[-1][2] != (len(table) - 1) % num_layers:
                raise InputError(
                    f"layer {row[2]} comes where layer {(len(table) - 1) % num_layers} of {num_layers} should",
                    where=where,
                )
    if len(table) % num_layers or not table:
        message = f"has {len(table)} rows, no multiple of the model's {num_layers} layers with experts"
        raise InputError(message, where=str(path))
    numbers = np.array(table, dtype=np.int64)
    return numbers[:, 3:].reshape(-1, num_layers, top_k), numbers[::num_layers, 0]
