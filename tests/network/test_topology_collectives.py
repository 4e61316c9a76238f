"""Collectives on topologies: physics, the cheapest algorithm, levels put together."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.network import LINK_CLASSES, PRESETS, Link, Ring, Topology, TopologyCollectives, preset_topology
from servetwin.network.algorithms import ALGORITHMS, ENGINE_ALGORITHMS, OPERATIONS, Operation, lower_bound
from servetwin.network.base import collectives
from servetwin.network.presets import scale_up
from servetwin.network.span_cost import allows, span_cost
from servetwin.network.topology import LevelKind, single_switch

PLACES = [
    preset_topology("hgx_h100"),
    preset_topology("hgx_a100", 4),
    preset_topology("hgx_b200", 64, "fat_tree", 2.0),
    preset_topology("gb200_nvl72", 2, "switch"),
    preset_topology("mi300x_platform", 2),
    preset_topology("pcie_gen4_box", 3),
    preset_topology("tpu_v5p_4x4x4"),
    preset_topology("tpu_v5e_4x4"),
]
MODELS = [TopologyCollectives(place) for place in PLACES] + [
    TopologyCollectives(PLACES[1], algorithm=name) for name in ALGORITHMS if name != "in_switch"
]


def _time(model: TopologyCollectives, operation: Operation, size: float, ranks: int, stride: int = 1) -> float:
    time: float = getattr(model, f"{operation}_ns")(size, ranks, stride)
    return time


@st.composite
def calls(draw: st.DrawFn) -> tuple[TopologyCollectives, Operation, float, int, int]:
    """Draw a group that fits, an operation and a size."""
    model = draw(st.sampled_from(MODELS))
    devices = model.topology.devices
    ranks = draw(st.integers(2, devices))
    stride = draw(st.integers(1, (devices - 1) // (ranks - 1)))
    size = draw(st.sampled_from((0.0, 1.0, 4096.0, 3e5, 2.0**23, 2.0**28)))
    return model, draw(st.sampled_from(OPERATIONS)), size, ranks, stride


@given(calls())
def test_never_faster_than_bytes_over_bandwidth(call: tuple[TopologyCollectives, Operation, float, int, int]) -> None:
    """On every level, what must cross it takes at least its bytes over the bandwidth of all members' links."""
    model, operation, size, ranks, stride = call
    time = _time(*call)
    for span in model.topology.spans(ranks, stride):
        least = lower_bound(operation, span.ranks, span.level.in_switch_reduction) * size
        links = 1 if operation == "all_to_all" else span.members
        uneven = 2 * ranks >= span.ranks * span.members  # a group that fills its units only in part moves less
        bound = least / (links * span.bandwidth_bytes_per_s) * 1e9 / (1 if uneven else 2)
        assert time >= bound * (1 - 1e-9)


@given(calls(), st.floats(1, 1e8))
def test_more_bytes_take_longer(call: tuple[TopologyCollectives, Operation, float, int, int], more: float) -> None:
    """No operation gets faster with more bytes."""
    model, operation, size, ranks, stride = call
    assert _time(model, operation, size + more, ranks, stride) >= _time(*call)


@given(st.sampled_from(PLACES), st.sampled_from(OPERATIONS), st.floats(1, 1e9), st.integers(2, 8))
def test_auto_is_the_cheapest(place: Topology, operation: Operation, size: float, ranks: int) -> None:
    """No single algorithm among the candidates beats the choice among all of them."""
    best = _time(TopologyCollectives(place), operation, size, ranks)
    for name in ENGINE_ALGORITHMS:
        candidates = (name,) if operation in ALGORITHMS[name].moves else (name, "ring", "pairwise")
        try:
            alone = _time(TopologyCollectives(place, candidates), operation, size, ranks)
        except InputError:
            continue
        assert best <= alone * (1 + 1e-12)


@given(st.floats(1e6, 1e13), st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 10**10), st.integers(2, 64))
def test_a_plain_switch_is_the_ring(bandwidth: float, latency: float, operation: float, size: int, ranks: int) -> None:
    """Asked for a ring, one switch of plain links gives what `Ring` gives; the cheapest is never dearer."""
    link = Link(bandwidth, latency, operation)
    ring, same = Ring(link), TopologyCollectives(single_switch(link), algorithm="ring")
    for name in ("all_reduce", "all_gather", "reduce_scatter", "broadcast"):
        expected = getattr(ring, f"{name}_ns")(size, ranks)
        assert getattr(same, f"{name}_ns")(size, ranks) == pytest.approx(expected)
        assert getattr(collectives.get("auto")(link=link), f"{name}_ns")(size, ranks) <= expected * (1 + 1e-12)
    assert same.send_ns(size) == pytest.approx(ring.send_ns(size))


def test_levels_by_hand() -> None:
    """Plain links on two levels: a reduce-scatter inside, an all-reduce of an eighth between nodes, an all-gather."""
    inner, outer = single_switch(Link(100e9, 10), size=8).levels[0], single_switch(Link(10e9, 500), size=2).levels[0]
    model = TopologyCollectives(Topology((inner, outer)), ("ring", "pairwise"))
    size = 8e6
    inside = 7 * (10 + size / 8 / 100)
    between = 2 * (500 + size / 8 / 2 / 10)
    by_level = 2 * inside + between
    one_ring = 2 * (2 * 7 * 10 + 500) + 2 * 15 / 16 * size / 80
    assert model.all_reduce_ns(size, 16) == pytest.approx(min(by_level, one_ring))
    assert model.all_to_all_ns(size, 16) == pytest.approx(500 + size / 2 / 10)
    assert model.broadcast_ns(size, 16) == pytest.approx(
        min(70 + size / 100 + 500 + size / 10, 70 * 2 + 500 + size / 80)
    )


def test_what_is_used() -> None:
    """One-shot for few bytes, two-shot for more, the switch for many; trees between nodes."""
    model = TopologyCollectives(preset_topology("hgx_h100", 8))
    used = [model.algorithm_of("all_reduce", size, 8) for size in (2**14, 2**21, 2**28)]
    assert used == ["one_shot on nvlink4", "two_shot on nvlink4", "in_switch on nvlink4"]
    assert model.algorithm_of("all_reduce", 2**10, 8, 8) == "tree on network"
    assert model.algorithm_of("all_reduce", 2**28, 64) == "ring through nvlink4 and network"
    assert model.algorithm_of("all_to_all", 2**20, 8) == "pairwise on nvlink4"
    nccl = collectives.get("nccl")(link=Link(1, 1), topology=preset_topology("hgx_h100"))
    assert nccl.algorithm_of("all_reduce", 2**14, 8) == "ring on nvlink4"  # type: ignore[attr-defined]


def test_a_shared_card_and_a_narrow_spine_take_longer() -> None:
    """Sharing a network card or a spine makes operations between nodes slower, in proportion for many bytes."""
    times = [
        TopologyCollectives(preset_topology("hgx_h100", 64, "fat_tree", share)).all_reduce_ns(2**30, 64, 8)
        for share in (1.0, 2.0, 4.0)
    ]
    assert all(1.9 < later / earlier < 2.1 for earlier, later in pairwise(times))


def test_two_of_a_full_mesh_use_one_link() -> None:
    """Two MI300X of eight share one link in seven: seven times slower than a switch of the same sum would be."""
    mesh = TopologyCollectives(preset_topology("mi300x_platform"))
    assert mesh.all_gather_ns(2**28, 2) >= 2**27 / 64e9 * 1e9
    assert mesh.all_gather_ns(2**28, 8) < mesh.all_gather_ns(2**28, 2)


def test_algorithms_that_cannot_be_carried() -> None:
    """An algorithm that no level carries is an error that names those that can be; so is one that does not exist."""
    with pytest.raises(InputError, match=r"no level of this topology can carry .* it allows ring, tree"):
        TopologyCollectives(preset_topology("mi300x_platform"), algorithm="in_switch")
    with pytest.raises(InputError, match="it allows ring, pairwise"):
        TopologyCollectives(preset_topology("tpu_v5e_4x4"), algorithm="two_shot")
    with pytest.raises(InputError, match="did you mean 'two_shot'"):
        TopologyCollectives(preset_topology("hgx_h100"), algorithm="two_shots")
    with pytest.raises(InputError, match=r"none of the algorithms given \(tree\) does all_gather"):
        TopologyCollectives(preset_topology("hgx_h100"), ("tree",)).all_gather_ns(1, 2)


@pytest.mark.parametrize("name", ["auto", "nccl", "tree", "topology_ring", "in_switch", "one_shot", "two_shot"])
def test_by_name(name: str) -> None:
    """Every name gives collectives on a topology; one rank takes no time."""
    model = collectives.get(name)(link=Link(1e9, 1), topology=preset_topology("hgx_h100", 2))
    assert model.all_reduce_ns(2**20, 1) == model.send_ns(1, 0) == 0
    assert 0 < model.all_reduce_ns(2**20, 4) < model.all_reduce_ns(2**20, 16)


@given(calls())
def test_one_level_by_lines_is_one_level_by_costs(
    call: tuple[TopologyCollectives, Operation, float, int, int],
) -> None:
    """On one level the short way, straight lines over the size, gives the cheapest of all costs."""
    model, operation, size, ranks, stride = call
    spans = model.topology.spans(ranks, stride)
    if len(spans) != 1:
        return
    names = [name for name in ALGORITHMS if operation in ALGORITHMS[name].moves and allows(spans[0], ALGORITHMS[name])]
    cheapest = min(span_cost(spans[0], ALGORITHMS[name], operation, size).total_ns for name in names)
    assert _time(model, operation, size, ranks, stride) >= cheapest * (1 - 1e-12)
    used = model.algorithm_of(operation, size, ranks, stride).split(" on ")[0]
    by_cost = span_cost(spans[0], ALGORITHMS[used], operation, size).total_ns
    assert _time(model, operation, size, ranks, stride) == pytest.approx(by_cost)


@given(calls(), st.lists(st.floats(0, 2**28), min_size=1, max_size=20))
def test_many_sizes_at_once_are_single_calls(
    call: tuple[TopologyCollectives, Operation, float, int, int], sizes: list[float]
) -> None:
    """To the last bit, on one level and on several."""
    model, operation, size, ranks, stride = call
    at_once = model.times_ns(operation, np.array([size, *sizes]), ranks, stride).tolist()
    assert at_once == [_time(model, operation, one, ranks, stride) for one in (size, *sizes)]


@pytest.mark.parametrize(("name", "size"), [("nvlink3", 8), ("nvlink4", 8), ("nvlink5", 8), ("infinity_fabric4", 8)])
def test_scale_up_links_are_a_machine_s_level(name: str, size: int) -> None:
    """Links whose protocols are known make the level of the smallest machine that has them, at the rate given."""
    rate = LINK_CLASSES[name].link.bandwidth_bytes_per_s
    found = scale_up(name, rate, 2)
    assert found is not None
    assert found.node.size == size
    machine = preset_topology(found.node.name)
    for operation in OPERATIONS:
        ours, whole = TopologyCollectives(found.topology), TopologyCollectives(machine)
        assert _time(ours, operation, 2.0**20, 8) == _time(whole, operation, 2.0**20, 8)
    slower = scale_up(name, rate / 2, 2)
    assert slower is not None
    assert not slower.topology.levels[0].in_switch_reduction
    assert TopologyCollectives(slower.topology).all_reduce_ns(2**28, 2) > 1.9 * ours.all_reduce_ns(2**28, 2)
    beyond = scale_up(name, rate, 20)
    assert beyond is not None
    assert (beyond.topology.devices, beyond.topology.levels[0].kind) == (20, "switch")


@pytest.mark.parametrize("name", ["pcie_gen5", "nvlink3_bridge", "ici_v5p", "infiniband_ndr", "nvlink2"])
def test_links_without_known_protocols_make_no_level(name: str) -> None:
    """PCIe, bridges, tori and networks, whose protocols in a server are not known, stay plain links."""
    assert scale_up(name, 1e9, 2) is None


def test_presets_cover_the_kinds() -> None:
    """Presets and the ways to join them make use of every kind of level but the plain ring."""
    used = {place.levels[i].kind for place in PLACES for i in range(len(place.levels))}
    assert used == set(get_args(LevelKind)) - {"ring"}
    assert len(PRESETS) >= 10
