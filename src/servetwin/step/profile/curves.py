"""Turning a table's rows into curves, one per layer."""

from __future__ import annotations

import numpy as np

from servetwin.step.profile.csv_table import Table
from servetwin.step.profile.tables import Curve


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
