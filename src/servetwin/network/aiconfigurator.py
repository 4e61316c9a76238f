"""Reading the tables of collectives in the PyPI package ``aiconfigurator-core`` 0.12 (Apache-2.0, NVIDIA).

Layout: ``systems/data/<system>/comm/nccl/<version>/nccl_perf.parquet`` (nccl-tests, whose sizes are those of the whole
tensor) and ``comm/vllm/<version>/custom_allreduce_perf.parquet`` (vLLM's all-reduce, whatever it dispatches to).
``message_size`` counts elements: of two bytes (``half``, ``bfloat16``) or one (``int8``). Times are in milliseconds.
Nothing of these tables is kept here but fitted coefficients.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, NamedTuple

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.units import NS_PER_US
from servetwin.network.curves import Curve, CurveKey, curves_of

TABLES_VARIABLE = "SERVETWIN_AICONFIGURATOR"

_OPERATIONS = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
}
_WIDTHS = {"half": 2, "bfloat16": 2, "int8": 1}


class CollectiveRow(NamedTuple):
    """One measured time: an operation among ranks of one node, on so many bytes of a type."""

    operation: str
    ranks: int
    num_bytes: float
    dtype: str
    time_ns: float


def tables_folder() -> Path | None:
    """Return the package's ``systems/data``: ``$SERVETWIN_AICONFIGURATOR``, else as installed; None without either."""
    given = os.environ.get(TABLES_VARIABLE)
    if given:
        return Path(given)
    package = importlib.util.find_spec("aiconfigurator_core")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0]) / "systems" / "data"


def read_nccl(folder: Path, system: str) -> list[CollectiveRow]:
    """Return a system's NCCL rows, of the newest version.

    Parameters
    ----------
    folder
        See `tables_folder`.
    system
        As the package names it: ``h100_sxm``.

    Raises
    ------
    InputError
        If the folder has no such system, or the system no such table.
    """
    rows = _read(_newest(folder, system, "nccl", "nccl_perf"))
    return [_row(row, row["nccl_dtype"]) for row in rows if row["op_name"] in _OPERATIONS and row["latency"] > 0]


def read_custom_all_reduce(folder: Path, system: str) -> list[CollectiveRow]:
    """Return a system's rows of vLLM's all-reduce inside a CUDA graph, of the newest version.

    Raises
    ------
    InputError
        As `read_nccl`.
    """
    rows = _read(_newest(folder, system, "vllm", "custom_allreduce_perf"))
    return [_row(row, row["allreduce_dtype"]) for row in rows if row["backend"] == "vllm_graph" and row["latency"] > 0]


def aiconfigurator_curves(folder: Path, system: str, *, nccl_only: bool = False) -> dict[CurveKey, Curve]:
    """Return the curves of a system: NCCL's for 16-bit tensors, and vLLM's own all-reduce where it was measured."""
    rows = [row for row in read_nccl(folder, system) if row.dtype == "half"]
    if not nccl_only:
        own = read_custom_all_reduce(folder, system)
        covered = {row.ranks for row in own}
        rows = [row for row in rows if row.operation != "all_reduce" or row.ranks not in covered] + own
    return curves_of((CurveKey(row.operation, row.ranks), row.num_bytes, row.time_ns) for row in rows)


def _newest(folder: Path, system: str, source: str, table: str) -> Path:
    if not (folder / system).is_dir():
        systems = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        raise unknown_name("system", system, systems, where=str(folder))
    paths = sorted((folder / system / "comm" / source).glob(f"*/{table}.parquet"), key=version_of)
    if not paths:
        raise InputError(f"no table {table} of {source}", where=str(folder / system / "comm"))
    return paths[-1]


def version_of(path: Path) -> list[int]:
    """Return the version of a table, which its folder's name says, for comparisons."""
    return [int(part) if part.isdigit() else 0 for part in path.parent.name.split(".")]


def _read(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as parquet

    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows


def _row(row: dict[str, Any], dtype: str) -> CollectiveRow:
    num_bytes = float(row["message_size"]) * _WIDTHS[dtype]
    operation = _OPERATIONS[row["op_name"]]
    return CollectiveRow(operation, int(row["num_gpus"]), num_bytes, dtype, row["latency"] * 1_000 * NS_PER_US)
