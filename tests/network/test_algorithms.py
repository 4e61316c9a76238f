"""Steps and bytes of algorithms: closed forms, and nothing below what must be moved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.network.algorithms import ALGORITHMS, OPERATIONS, lower_bound, mesh_moves


@given(st.integers(2, 4096))
def test_ring_moves(ranks: int) -> None:
    """A ring all-reduce moves 2 (N - 1) / N of the bytes, its two halves each half of that, over as many steps."""
    moves = ALGORITHMS["ring"].moves
    assert moves["all_reduce"](ranks).wire == pytest.approx(2 * (ranks - 1) / ranks)
    assert moves["all_reduce"](ranks).steps == 2 * (ranks - 1)
    for half in ("all_gather", "reduce_scatter"):
        assert moves[half](ranks).wire * 2 == pytest.approx(moves["all_reduce"](ranks).wire)


@given(st.integers(2, 4096))
def test_nothing_moves_less_than_it_must(ranks: int) -> None:
    """No algorithm moves fewer bytes per rank than the operation needs, nor works without a step."""
    for algorithm in ALGORITHMS.values():
        for operation, moves in algorithm.moves.items():
            found = moves(ranks)
            assert found.wire >= lower_bound(operation, ranks, algorithm.kernel == "switch") * (1 - 1e-12)
            assert found.steps >= 1


def test_steps_by_hand() -> None:
    """Eight ranks: three rounds of doubling, six of halving and doubling, one or two of an engine's own kernel."""
    steps = {name: one.moves["all_reduce"](8).steps for name, one in ALGORITHMS.items() if "all_reduce" in one.moves}
    assert steps == {
        "ring": 14,
        "tree": 6,
        "recursive_doubling": 3,
        "halving_doubling": 6,
        "one_shot": 1,
        "two_shot": 2,
        "in_switch": 2,
    }
    assert ALGORITHMS["recursive_doubling"].moves["all_reduce"](6).steps == 2 + 2
    assert ALGORITHMS["halving_doubling"].moves["all_reduce"](8).wire == 2 * 7 / 8
    assert ALGORITHMS["one_shot"].moves["all_reduce"](8).wire == 7


def test_torus_by_hand() -> None:
    """On a closed 4 x 4 torus an all-to-all loads each link with half of a rank's tensor (n / 8), of four links."""
    sides = ((4, True), (4, True))
    assert mesh_moves("all_to_all", sides).wire == pytest.approx(4 * 4 / 8)
    assert mesh_moves("all_reduce", sides).wire == pytest.approx(2 * 15 / 16)
    assert mesh_moves("all_reduce", sides).steps == 2 * (3 + 3)
    open_line = mesh_moves("all_to_all", ((4, False),))
    assert open_line.wire == 1.0  # n / 4 of the tensor over the one link to each side, which is all there is


@given(st.lists(st.tuples(st.integers(2, 16), st.booleans()), min_size=1, max_size=3))
def test_torus_moves_what_it_must(sides: list[tuple[int, bool]]) -> None:
    """A torus moves no less than any network must."""
    ranks = 1
    for along, _ in sides:
        ranks *= along
    for operation in OPERATIONS:
        assert mesh_moves(operation, tuple(sides)).wire >= lower_bound(operation, ranks, False) * (1 - 1e-12)
