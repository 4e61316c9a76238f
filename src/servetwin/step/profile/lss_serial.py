"""From LLMServingSim's ``skew.csv``: how fast one thread block reads a sequence, and from which batch on it has to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.step.profile.csv_table import Column, Table, read_table
from servetwin.step.profile.tables import SerialRead

SLOWER = 1.1
"""A batch with one long sequence takes longer than its mean says by this factor where sequences are not split."""

_COLUMNS = (
    Column("regime", "text"),
    Column("n", "count", 1),
    Column("nb", "count"),
    Column("kv_big", "count", 1),
    Column("t_mean_us", "us"),
    Column("t_skew_us", "us"),
)

_MULTIPROCESSORS = {"RTX PRO 6000": 188, "RTX 4090": 128, "RTX A6000": 84, "A100": 108, "H100": 132, "H200": 132}

_OCCUPIED = 0.8 * 2
"""FlashAttention 2 stops to split sequences at this many (sequence, KV head) pairs per multiprocessor
(``num_splits_heuristic`` in its ``flash_api.cpp``)."""


def read_serial(path: Path, meta: Mapping[Any, Any], tensor_parallel_size: int) -> SerialRead | None:
    """Return what the rows without a prefill show: a few long sequences among many short ones.

    The rate is the median over the smallest profiled batch whose time such sequences decide (times combine as in
    `LongestRead`). Where splitting ends lies between that batch and the next smaller one; if the multiprocessors and
    the KV heads are known it follows from FlashAttention's rule, else the middle (geometric) is taken. The times of
    this file are sums over the profiler's repetitions (compare its ``t_max_us`` with ``attention.csv``).
    """
    table = read_table(path, _COLUMNS, extra=True)
    pure = table["regime"] == "pure"
    few = pure & (table["nb"] * 8 <= table["n"])
    batches = np.unique(table["n"][few])
    decided = [n for n in batches if np.median(_ratio(table, few & (table["n"] == n))) >= SLOWER]
    if not len(decided):
        return None
    first = int(decided[0])
    rows = few & (table["n"] == first) & (table["t_skew_us"] > table["t_mean_us"])
    repetitions = float(meta.get("measurement_iterations") or 1)
    rate = float(np.median(_serial_ns(table, rows) / table["kv_big"][rows])) / repetitions
    smaller = [int(n) for n in np.unique(table["n"][pure]) if n < first]
    return SerialRead(_from_decodes(smaller[-1] if smaller else 0, first, meta, tensor_parallel_size), round(rate, 2))


def _ratio(table: Table, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(table["t_skew_us"][rows] / table["t_mean_us"][rows])


def _serial_ns(table: Table, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the serial time that, combined with the mean's, gives the measured one."""
    return np.asarray((table["t_skew_us"][rows] ** 4 - table["t_mean_us"][rows] ** 4) ** 0.25)


def _from_decodes(below: int, above: int, meta: Mapping[Any, Any], tensor_parallel_size: int) -> int:
    gpu = str(meta.get("gpu", ""))
    processors = next((count for name, count in _MULTIPROCESSORS.items() if name in gpu), None)
    heads = _kv_heads(meta, tensor_parallel_size)
    if processors and heads:
        rule = -(-int(_OCCUPIED * processors) // heads)
        if below < rule <= above:
            return rule
    return max(1, round(math.sqrt(max(1, below) * above)))


def _kv_heads(meta: Mapping[Any, Any], tensor_parallel_size: int) -> int | None:
    """Return the KV heads per rank; the file has those of its last degree."""
    try:
        heads = int(meta["engine_effective"]["hf_overrides"]["num_key_value_heads"])
        return max(1, heads * int(meta["tp_degrees"][-1]) // tensor_parallel_size)
    except (KeyError, TypeError, IndexError, ValueError):
        return None
