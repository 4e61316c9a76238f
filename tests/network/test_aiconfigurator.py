"""Reading the package's tables, from files written here in its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from servetwin.core.errors import InputError
from servetwin.network import Link
from servetwin.network.aiconfigurator import (
    TABLES_VARIABLE,
    aiconfigurator_curves,
    read_custom_all_reduce,
    read_nccl,
    tables_folder,
)
from servetwin.network.base import collectives
from servetwin.network.curves import CurveKey


def _nccl(operation: str, dtype: str, size: int, latency: float) -> dict[str, Any]:
    return {"op_name": operation, "nccl_dtype": dtype, "num_gpus": 8, "message_size": size, "latency": latency}


def _custom(backend: str, latency: float) -> dict[str, Any]:
    return {
        "op_name": "all_reduce",
        "allreduce_dtype": "bfloat16",
        "num_gpus": 8,
        "message_size": 512,
        "latency": latency,
        "backend": backend,
    }


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one system: two versions of NCCL's table, and vLLM's own all-reduce."""
    comm = tmp_path / "h100_sxm" / "comm"
    _write(comm / "nccl" / "2.9.1" / "nccl_perf.parquet", [_nccl("all_reduce", "half", 512, 9.0)])
    rows = [
        _nccl("all_reduce", "half", 512, 0.02),
        _nccl("alltoall", "half", 512, 0.01),
        _nccl("alltoall", "int8", 512, 0.008),
        _nccl("all_gather", "half", 512, -1.0),
    ]
    _write(comm / "nccl" / "2.29.2" / "nccl_perf.parquet", rows)
    _write(comm / "vllm" / "0.24.0" / "custom_allreduce_perf.parquet", [_custom("vllm_graph", 0.005), _custom("x", 1)])
    return tmp_path


def test_rows(folder: Path) -> None:
    """The newest version counts (2.29 after 2.9), sizes become bytes, times nanoseconds, failures are left out."""
    rows = read_nccl(folder, "h100_sxm")
    assert [(row.operation, row.num_bytes, row.dtype, round(row.time_ns)) for row in rows] == [
        ("all_reduce", 1024, "half", 20_000),
        ("all_to_all", 1024, "half", 10_000),
        ("all_to_all", 512, "int8", 8_000),
    ]
    assert [round(row.time_ns) for row in read_custom_all_reduce(folder, "h100_sxm")] == [5_000]


def test_curves(folder: Path) -> None:
    """The all-reduce of vLLM takes the place of NCCL's, unless NCCL alone is asked for."""
    key = CurveKey("all_reduce", 8)
    assert aiconfigurator_curves(folder, "h100_sxm")[key](1024) == pytest.approx(5_000)
    assert aiconfigurator_curves(folder, "h100_sxm", nccl_only=True)[key](1024) == pytest.approx(20_000)


def test_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registered factory finds the folder through the environment."""
    monkeypatch.setenv(TABLES_VARIABLE, str(folder))
    assert tables_folder() == folder
    model = collectives.get("aiconfigurator")(link=Link(1e9, 1), system="h100_sxm")
    assert model.all_reduce_ns(1024, 8) == pytest.approx(5_000)
    with pytest.raises(InputError, match="unknown system 'h100'; did you mean 'h100_sxm'"):
        collectives.get("aiconfigurator")(link=Link(1e9, 1), system="h100")


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error says what to install."""
    monkeypatch.delenv(TABLES_VARIABLE, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"install aiconfigurator-core 0\.12"):
        collectives.get("aiconfigurator")(link=Link(1e9, 1), system="h100_sxm")


def test_no_table(folder: Path) -> None:
    """A system without a table is an error with the place."""
    (folder / "l4" / "comm").mkdir(parents=True)
    with pytest.raises(InputError, match="no table nccl_perf of nccl"):
        read_nccl(folder, "l4")
