"""Measured collectives: the CSV format, interpolation, and what was not measured."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.network import Link, MeasuredCollectives, Ring, preset_topology
from servetwin.network.base import collectives
from servetwin.network.curves import Curve, CurveKey
from servetwin.network.measured import read_measured

TABLE = """operation,ranks,bytes,time_us,stride
all_reduce,8,1024,10,1
all_reduce,8,2048,12,1
all_reduce,8,4096,11,1
all_reduce,8,8192,20,1
all_reduce,2,1024,90,8
send,2,1000,7,8
"""

points = st.lists(st.tuples(st.floats(1, 1e12), st.floats(1, 1e12)), min_size=1, max_size=12)


def _written(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_interpolation_by_hand(tmp_path: Path) -> None:
    """Flat below, linear between, never falling, and on along the last piece beyond."""
    curve = read_measured(_written(tmp_path, TABLE))[CurveKey("all_reduce", 8)]
    assert [curve(size) for size in (1, 1024, 1536, 2048, 4096)] == [10_000, 10_000, 11_000, 12_000, 12_000]
    assert curve(8192) == 20_000
    assert curve(16384) == 20_000 + 8_000 * 2


@given(points, st.lists(st.floats(0, 1e13), min_size=2, max_size=8))
def test_curves_never_fall(given_points: list[tuple[float, float]], sizes: list[float]) -> None:
    """Whatever was measured, more bytes never take less time."""
    curve = Curve(given_points)
    times = [curve(size) for size in sorted(sizes)]
    assert all(later >= earlier * (1 - 1e-12) for earlier, later in pairwise(times))


def test_what_was_not_measured(tmp_path: Path) -> None:
    """A group that is not in the table is the formula's, or an error that says what is."""
    curves = read_measured(_written(tmp_path, TABLE))
    ring = Ring(Link(1e9, 5))
    mixed = MeasuredCollectives(curves, ring)
    assert mixed.all_reduce_ns(1024, 2, 8) == 90_000
    assert mixed.all_reduce_ns(1024, 2) == ring.all_reduce_ns(1024, 2)
    assert mixed.broadcast_ns(1024, 8) == ring.broadcast_ns(1024, 8)
    assert mixed.send_ns(500, 8) == 7_000
    assert mixed.send_ns(500, 1) == ring.send_ns(500, 1)
    assert mixed.all_reduce_ns(1024, 1) == mixed.send_ns(1, 0) == 0
    alone = MeasuredCollectives(curves, where="table.csv")
    with pytest.raises(InputError, match=r"among 4 ranks with stride 1 was not measured; measured: 2 ranks with str"):
        alone.all_reduce_ns(1024, 4)
    with pytest.raises(InputError, match="measured: nothing"):
        alone.all_to_all_ns(1024, 4)


def test_by_name(tmp_path: Path) -> None:
    """The registered factory reads a file of a folder and falls back on the cheapest algorithm of its topology."""
    path, place = _written(tmp_path, TABLE), preset_topology("hgx_h100")
    model = collectives.get("measured")(link=Link(1e9, 5), path=path.name, topology=place, folder=tmp_path)
    auto = collectives.get("auto")(link=Link(1e9, 5), topology=place)
    assert model.all_reduce_ns(1024, 8) == 10_000
    assert model.all_gather_ns(1024, 8) == auto.all_gather_ns(1024, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("operation,ranks,bytes\n", "1: column 'time_us' is missing"),
        ("operation,ranks,bytes,time_us,strides\n", "unknown column 'strides'; did you mean 'stride'"),
        ("operation,ranks,bytes,time_us\n", "no rows"),
        ("operation,ranks,bytes,time_us\nall_reduc,8,1,1\n", ":2: unknown operation 'all_reduc'; did you mean"),
        ("operation,ranks,bytes,time_us\nall_reduce,1,1,1\n", ":2: ranks must be a whole number of at least 2"),
        ("operation,ranks,bytes,time_us\nall_reduce,8,nan,1\n", ":2: bytes must be a number of at least 0, got 'nan'"),
        ("operation,ranks,bytes,time_us\nall_reduce,8,1,-1\n", ":2: time_us must be"),
        ("operation,ranks,bytes,time_us\nall_reduce,8,1\n", ":2: has not as many values"),
        ("operation,ranks,bytes,time_us\nall_reduce,8,1,1,1\n", ":2: has not as many values"),
        ("operation,ranks,bytes,time_us\nsend,4,1,1\n", ":2: a send has 2 ranks"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    """What is wrong with a table is said with its line and what is allowed."""
    with pytest.raises(InputError, match=message):
        read_measured(_written(tmp_path, text))


@given(st.text(max_size=200))
def test_any_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Any text is a table or an InputError, never another exception."""
    path = _written(tmp_path_factory.getbasetemp(), "operation,ranks,bytes,time_us\n" + text.replace("\ud800", ""))
    with suppress(InputError):
        assert read_measured(path)


def test_no_such_file() -> None:
    """A file that is not there is an error with its path."""
    with pytest.raises(InputError, match=r"nowhere\.csv: cannot be read"):
        read_measured(Path("nowhere.csv"))
