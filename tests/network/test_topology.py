"""Where groups lie on topologies, and what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.network import PRESETS, Level, Topology, preset_topology
from servetwin.network.presets import join_nodes, link_level

TWO_LEVELS = Topology(
    (
        Level(name="inner", size=8, bandwidth_bytes_per_s=400e9),
        Level(name="outer", size=4, bandwidth_bytes_per_s=50e9),
    ),
    name="small",
)


def _shape(topology: Topology, ranks: int, stride: int = 1) -> list[tuple[str, int, int]]:
    return [(span.level.name, span.ranks, span.members) for span in topology.spans(ranks, stride)]


def test_groups_by_hand() -> None:
    """Neighbours stay inside, a stride of a node goes between nodes, and larger groups use both levels."""
    assert _shape(TWO_LEVELS, 1) == []
    assert _shape(TWO_LEVELS, 8) == [("inner", 8, 1)]
    assert _shape(TWO_LEVELS, 4, 2) == [("inner", 4, 1)]
    assert _shape(TWO_LEVELS, 4, 8) == [("outer", 4, 1)]
    assert _shape(TWO_LEVELS, 16) == [("inner", 8, 1), ("outer", 2, 8)]
    assert _shape(TWO_LEVELS, 8, 4) == [("inner", 2, 1), ("outer", 4, 2)]
    assert _shape(TWO_LEVELS, 12) == [("inner", 8, 1), ("outer", 2, 8)]


@given(st.integers(1, 40), st.integers(1, 40))
def test_spans_hold_the_group(ranks: int, stride: int) -> None:
    """A group is refused when it needs more accelerators than there are, and else its spans have room for it."""
    needed = (ranks - 1) * stride + 1
    if needed > TWO_LEVELS.devices:
        with pytest.raises(InputError, match=f"need {needed} accelerators; there are 32"):
            TWO_LEVELS.spans(ranks, stride)
        return
    spans = TWO_LEVELS.spans(ranks, stride)
    assert math.prod(span.ranks for span in spans) >= ranks
    assert all(2 <= span.ranks <= span.level.size for span in spans)


def test_unlinked_nodes() -> None:
    """A group over nodes that no link joins is an error with the numbers and what would be valid."""
    nodes = preset_topology("hgx_h100", 2, "none")
    assert nodes.devices == 16
    with pytest.raises(InputError, match=r"span 2 nodes of 8 that no link joins: at most 8 ranks, 1 apart, or give"):
        nodes.check_group(16)
    with pytest.raises(InputError, match="there are 16: at most 8 ranks, 1 apart"):
        nodes.check_group(17)
    assert preset_topology("hgx_h100", 2).spans(16)


def test_links_of_kinds() -> None:
    """A group uses only its own links of a full mesh, half of an open ring, and a spine's narrower share."""
    full = Topology((Level(name="full", size=8, bandwidth_bytes_per_s=448e9, kind="fully_connected"),))
    assert full.spans(2)[0].bandwidth_bytes_per_s == 64e9
    assert full.spans(8)[0].bandwidth_bytes_per_s == 448e9
    torus = Topology((Level(name="torus", size=16, bandwidth_bytes_per_s=200e9, kind="torus", shape=(4, 4)),))
    assert torus.spans(16)[0].bandwidth_bytes_per_s == 200e9
    assert torus.spans(4)[0].bandwidth_bytes_per_s == torus.spans(4, 4)[0].bandwidth_bytes_per_s == 100e9
    assert torus.spans(2)[0].bandwidth_bytes_per_s == 50e9
    assert torus.spans(2)[0].sides == ((2, False),)
    tree = Level(name="tree", size=64, bandwidth_bytes_per_s=50e9, kind="fat_tree", leaf=32, oversubscription=2)
    assert Topology((tree,)).spans(32)[0].bandwidth_bytes_per_s == 50e9
    assert Topology((tree,)).spans(33)[0].bandwidth_bytes_per_s == 25e9


def test_routes() -> None:
    """A message takes the outermost level that its distance crosses; on rails it changes its position first."""
    rails = preset_topology("hgx_h100", 4)
    assert [way.level.name for way in rails.route(1)] == ["nvlink4"]
    assert [way.level.name for way in rails.route(8)] == ["network"]
    assert [way.level.name for way in rails.route(9)] == ["network", "nvlink4"]
    ring = Topology((Level(name="ring", size=8, bandwidth_bytes_per_s=100e9, kind="ring"),))
    assert [ring.route(distance)[0].hops for distance in (1, 4, 7)] == [1, 4, 1]
    with pytest.raises(InputError, match="there are 8"):
        ring.route(8)


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    """Every preset has a source and holds a group of all its accelerators."""
    topology = preset_topology(name)
    assert PRESETS[name].source
    assert math.prod(span.ranks for span in topology.spans(topology.devices)) == topology.devices


def test_joined_nodes() -> None:
    """Nodes of a preset are joined as asked; a pod is one node; names are checked."""
    tree = preset_topology("hgx_b200", 64, "fat_tree", 4.0)
    assert (tree.levels[1].kind, tree.levels[1].leaf, tree.levels[1].oversubscription) == ("fat_tree", 32, 4.0)
    assert preset_topology("pcie_gen5_box", 2).levels[1].bandwidth_bytes_per_s == 50e9 / 8
    with pytest.raises(InputError, match="one node of 16"):
        preset_topology("tpu_v5e_4x4", 2)
    with pytest.raises(InputError, match="did you mean 'hgx_h100'"):
        preset_topology("hgx_h10")
    with pytest.raises(InputError, match="did you mean 'rail'"):
        join_nodes([link_level("nvlink4", 8)], 2, "rails", "infiniband_ndr")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "at least 1 unit"),
        ({"kind": "star"}, "kind of level"),
        ({"kind": "torus", "shape": (3, 3)}, "has 9 units, not 8"),
        ({"kind": "fat_tree", "leaf": 9}, "1 to 8 units"),
        ({"oversubscription": 0.5}, "at least 1"),
        ({"bandwidth_bytes_per_s": 0.0}, "above 0"),
    ],
)
def test_levels_that_cannot_be(wrong: dict[str, object], message: str) -> None:
    """A level that no hardware can be is an error with what is allowed."""
    given_values: dict[str, object] = {"name": "x", "size": 8, "bandwidth_bytes_per_s": 1e9, **wrong}
    with pytest.raises(InputError, match=message):
        Level(**given_values)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one level"):
        Topology(())
