"""LLMServingSim's collectives over one and several dimensions (FORMATS 7.8)."""

from __future__ import annotations

import math

import pytest

from servetwin.core.errors import InputError
from servetwin.network import Link, LssDimension, LssRing
from servetwin.network.base import collectives

FAST, SLOW = LssDimension(2, 128, 500), LssDimension(4, 16, 20_000)


def _message(dimension: LssDimension, size: float) -> int:
    return math.floor(dimension.latency_ns + size / (dimension.gb_per_s * 2**30 / 1e9)) + 20


def test_one_dimension_by_hand() -> None:
    """All-gather, reduce-scatter and all-to-all are N - 1 steps of the part of one rank; reductions cost memory."""
    ring = LssRing(Link(16e9, 20_000), 1000e9)
    step = _message(LssDimension(4, 16, 20_000), 2**20)
    assert ring.all_gather_ns(2**22, 4) == ring.all_to_all_ns(2**22, 4) == 3 * step
    assert ring.reduce_scatter_ns(2**22, 4) == 3 * (step + math.floor(3 * 2**20 / 1000))
    assert ring.all_reduce_ns(2**22, 4) == ring.reduce_scatter_ns(2**22, 4) + ring.all_gather_ns(2**22, 4)
    assert ring.send_ns(2**20) == ring.broadcast_ns(2**20, 4) == step
    assert ring.send_ns(2**20, 0) == 0


def test_two_dimensions_by_hand() -> None:
    """Up the dimensions with what is left of the tensor, and down again: localBWAware."""
    ring = LssRing(Link(1e9, 1), 0.0, [FAST, SLOW])
    up = _message(FAST, 2**22 / 2) + 3 * _message(SLOW, 2**22 / 8)
    assert ring.reduce_scatter_ns(2**22, 8) == ring.all_gather_ns(2**22, 8) == up
    assert ring.all_reduce_ns(2**22, 8) == 2 * up
    assert ring.all_to_all_ns(2**22, 8) == _message(FAST, 2**22 / 2) + 3 * _message(SLOW, 2**22 / 4)


def test_groups_find_their_dimensions() -> None:
    """Neighbours use the inner dimension, a stride leads to the outer one, and so does a message's distance."""
    ring = LssRing(Link(1e9, 1), 0.0, [FAST, SLOW])
    assert ring.all_gather_ns(2**20, 2) == _message(FAST, 2**19)
    assert ring.all_gather_ns(2**20, 4, stride=2) == 3 * _message(SLOW, 2**18)
    assert ring.send_ns(2**20) == _message(FAST, 2**20)
    assert ring.send_ns(2**20, 2) == _message(SLOW, 2**20)


def test_involved_dimensions() -> None:
    """A group over the first and the last of three dimensions pays nothing for the one between."""
    ring = LssRing(Link(1e9, 1), 0.0, [FAST, LssDimension(8, 1, 10**6), SLOW])
    assert ring.over(0, 2).reduce_scatter_ns(2**22, 8) == LssRing(Link(1e9, 1), 0.0, [FAST, SLOW]).reduce_scatter_ns(
        2**22, 8
    )
    with pytest.raises(InputError, match="no dimension 3"):
        ring.over(3)


def test_groups_that_are_no_whole_dimensions() -> None:
    """A group that covers half a dimension is an error with the network's shape."""
    ring = LssRing(Link(1e9, 1), 0.0, [FAST, SLOW])
    with pytest.raises(InputError, match="3 ranks with stride 1 are no whole dimensions of a network of 2 x 4"):
        ring.all_reduce_ns(1, 3)
    with pytest.raises(InputError, match="at least 1 rank"):
        LssDimension(0, 1, 1)


def test_one_rank_moves_nothing() -> None:
    """A group of one takes no time, whatever the operation."""
    ring = collectives.get("lss_ring")(link=Link(1e9, 10))
    assert ring.all_gather_ns(9, 1) == ring.reduce_scatter_ns(9, 1) == ring.all_to_all_ns(9, 1) == 0
