"""Turning a table's rows into curves, grids and columns."""

from __future__ import annotations

import numpy as np

from servetwin.core.errors import InputError
from servetwin.step.profile.csv_table import Table
from servetwin.step.profile.tables import Curve, ExpertBlock, Grid, JointAttention


def curves_by_layer(table: Table, layer: str, counts: str, times: str) -> dict[str, Curve]:
    """Return the curve of each layer of a table with the columns ``layer``, ``counts`` and ``times``.

    Raises
    ------
    InputError
        If a layer has two rows for the same count.
    """
    table.check_distinct(layer, counts)
    names, codes = np.unique(table[layer], return_inverse=True)
    order = np.lexsort((table[counts], codes))
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    return {
        str(name): Curve(table[counts][rows], table[times][rows])
        for i, name in enumerate(names)
        for rows in (order[bounds[i] : bounds[i + 1]],)
    }


def complete_grid(table: Table, first: str, second: str, times: str) -> Grid:
    """Return a table over two axes, which must have one row for each pair.

    Raises
    ------
    InputError
        If a pair has two rows or none.
    """
    table.check_distinct(first, second)
    rows, row = np.unique(table[first], return_inverse=True)
    keys, key = np.unique(table[second], return_inverse=True)
    if len(table) != len(rows) * len(keys):
        present = np.zeros((len(rows), len(keys)), dtype=bool)
        present[row, key] = True
        i, j = (int(places[0]) for places in np.nonzero(~present))
        message = f"no row for {first} {rows[i]}, {second} {keys[j]}; the table must have one for each pair"
        raise InputError(message, where=str(table.path))
    values = np.empty((len(rows), len(keys)))
    values[row, key] = table[times]
    return Grid(rows, keys, values)


def joint_attention(table: Table) -> JointAttention:
    """Return a table of joint kernel calls; its columns are those of `JointAttention`, in that order.

    Raises
    ------
    InputError
        If two rows agree in all keys, or no row has decodes.
    """
    names = list(table.columns)
    table.check_distinct(*names[:4])
    chunk, context, decodes, kv_decode, time_ns = table.columns.values()
    if not (decodes > 0).any():
        raise InputError(f"no row with decodes ({names[2]} above 0)", where=str(table.path))
    return JointAttention(chunk, context, decodes, kv_decode, time_ns)


def expert_block(table: Table) -> ExpertBlock:
    """Return a table of whole expert blocks; its columns are those of `ExpertBlock`, in that order.

    Raises
    ------
    InputError
        If two rows agree in both keys.
    """
    names = list(table.columns)
    table.check_distinct(*names[:2])
    return ExpertBlock(*table.columns.values())
