"""Links, their classes, and the closed forms of an all-reduce."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.network import LINK_CLASSES, Link, LssRing, Ring, link_class
from servetwin.network.base import collectives

links = st.builds(Link, st.floats(1e6, 1e13), st.floats(0, 1e6), st.floats(0, 1e6))


@given(links, st.integers(0, 2**40), st.integers(2, 64))
def test_ring_closed_form(link: Link, size: int, ranks: int) -> None:
    """A ring's all-reduce is its operation's start and 2 (N - 1) messages of D / N bytes."""
    messages = 2 * (ranks - 1) * (link.latency_ns + size / ranks / link.bandwidth_bytes_per_s * 1e9)
    assert Ring(link).all_reduce_ns(size, ranks) == pytest.approx(link.operation_ns + messages)


@given(links, st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 63))
def test_more_bytes_and_more_ranks_take_longer(link: Link, size: int, more: int, ranks: int) -> None:
    """Neither more bytes nor one more rank ever make an all-reduce faster."""
    for ring in (Ring(link), LssRing(link, 1e12)):
        time = ring.all_reduce_ns(size, ranks)
        assert ring.all_reduce_ns(size + more, ranks) >= time
        assert ring.all_reduce_ns(size, ranks + 1) >= time * (1 - 1e-12) - 60 * ranks


def test_one_rank_has_nothing_to_do() -> None:
    """A single rank needs no collective."""
    assert Ring(Link(1e9, 100, 1000)).all_reduce_ns(10**6, 1) == 0
    assert LssRing(Link(1e9, 100), 1e12).all_reduce_ns(10**6, 1) == 0


def test_lss_ring_by_hand() -> None:
    """FORMATS 7.8, case G: two ranks, 8,716,288 bytes, 16 "GB/s" of 2**30 bytes, 20 us, memory at 1,597 GB/s."""
    ring = LssRing(Link(16e9, 20_000), 1597e9)
    message = 20_000 + 4_358_144 / (16 * 2**30 / 1e9)
    assert ring.message_ns(4_358_144) == math.floor(message) == 273_677
    assert ring.all_reduce_ns(8_716_288, 2) == 2 * (273_677 + 10 + 10) + math.floor(3 * 4_358_144 / 1597)


@pytest.mark.parametrize("wrong", [(0, 1, 0), (-1, 1, 0), (math.nan, 1, 0), (1, -1, 0), (1, math.inf, 0), (1, 1, -1)])
def test_links_that_cannot_be(wrong: tuple[float, float, float]) -> None:
    """A bandwidth above 0, and times that are not negative: all else is an error."""
    with pytest.raises(InputError):
        Link(*wrong)
    with pytest.raises(InputError, match="memory bandwidth"):
        LssRing(Link(1e9, 1), -1.0)


def test_link_classes() -> None:
    """Every class has a source, and an unknown one names the nearest match."""
    assert all(name == entry.name and entry.source for name, entry in LINK_CLASSES.items())
    assert link_class("pcie_gen5").link.bandwidth_bytes_per_s == 2 * link_class("pcie_gen4").link.bandwidth_bytes_per_s
    with pytest.raises(InputError, match="did you mean 'pcie_gen5'"):
        link_class("pcie_gen55", where="hardware.link")


def test_registered() -> None:
    """Both rings are found by name."""
    assert {"ring", "lss_ring"} <= set(collectives.names())
