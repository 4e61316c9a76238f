"""Which collectives a scenario gets: by its links, its topology, or by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from servetwin.core.errors import InputError
from servetwin.network import LINK_CLASSES, Link, MeasuredCollectives, Ring, TopologyCollectives, preset_topology
from servetwin.network.base import Collectives
from servetwin.scenario.build import Deployment, build
from servetwin.scenario.collectives import collectives_of
from servetwin.scenario.hardware import Replica
from servetwin.scenario.load import load_scenario

H100 = TopologyCollectives(preset_topology("hgx_h100"))
SIZE = 2**20


def deployment(hardware: dict[str, Any], ranks: int, collective: Any, folder: Path) -> Deployment:
    """Return a deployment of Llama-3.1-70B over some accelerators."""
    scenario = {
        "model": "meta-llama/Llama-3.1-70B",
        "cluster": [
            {
                "name": "chat",
                "hardware": hardware,
                "engine": {"tensor_parallel_size": ranks, "num_gpu_blocks_override": 5000},
                "step": {"model": "roofline", "collective": collective},
            }
        ],
        "workload": {
            "kind": "synthetic",
            "requests": 2,
            "arrivals": {"kind": "poisson", "rate_per_s": 2},
            "prompt_tokens": 20,
            "output_tokens": 5,
        },
    }
    return build(load_scenario(scenario, folder=folder))


def found(
    hardware: dict[str, Any], ranks: int = 4, collective: Any = "default", folder: Path = Path()
) -> tuple[Collectives, list[str]]:
    """Return the collectives of a deployment's one pool, and what is said of the links."""
    whole = deployment(hardware, ranks, collective, folder)
    replica: Replica = whole.replicas[0]
    made = collectives_of(replica)
    assert made is not None
    return made, whole.notices


@pytest.mark.parametrize("device", ["H100-SXM", "A100-SXM-80GB", "B200", "H100-NVL", "MI300X", "MI355X"])
def test_known_scale_up_links_are_a_level_of_their_machine(device: str) -> None:
    """NVLink 3 to 5 and Infinity Fabric 4 bring their protocols; nothing has to be said about it."""
    made, notices = found({"device": device}, 8)
    assert isinstance(made, TopologyCollectives)
    assert len(made.topology.levels) == 1
    assert notices == []


def test_the_default_is_the_machine() -> None:
    """Eight H100 without a word cost what the preset costs."""
    made, _ = found({"device": "H100-SXM"}, 8)
    assert made.all_reduce_ns(SIZE, 8) == H100.all_reduce_ns(SIZE, 8)
    assert found({"device": "H100-SXM", "topology": "hgx_h100"}, 8)[0].all_reduce_ns(SIZE, 8) == H100.all_reduce_ns(
        SIZE, 8
    )


@pytest.mark.parametrize(
    "hardware",
    [
        {"device": "RTXPRO6000"},
        {"device": "RTXPRO6000", "link": {"bandwidth_gb_per_s": 60}},
        {"device": "MI250"},
        {"device": "TPU-v5p"},
        {"device": "RTXA6000"},
        {"device": "H100-SXM", "link": {"bandwidth_gb_per_s": 400, "latency_ns": 500}},
        {"device": "H100-SXM", "link": {"latency_ns": 500}},
    ],
)
def test_other_links_are_rings(hardware: dict[str, Any]) -> None:
    """PCIe, whose figures come from a server, links without known protocols, and a latency of the user's own."""
    assert isinstance(found(hardware)[0], Ring)


def test_a_latency_of_ones_own_is_all_there_is() -> None:
    """With bandwidth and latency given, a message is latency and size over bandwidth, without an operation's start."""
    made, _ = found({"device": "H100-SXM", "link": {"bandwidth_gb_per_s": 400, "latency_ns": 500}})
    assert made.all_reduce_ns(SIZE, 4) == Ring(Link(400e9, 500)).all_reduce_ns(SIZE, 4)


@pytest.mark.parametrize(("gb_per_s", "said"), [(966.4, True), (450, False), (200, False)])
def test_a_bandwidth_is_at_most_that_of_the_device(gb_per_s: float, said: bool) -> None:
    """A link as both directions of NVLink count it makes nothing faster, and a notice says so; a slower one counts."""
    made, notices = found({"device": "H100-SXM", "link": {"bandwidth_gb_per_s": gb_per_s}})
    assert any("966.4 GB/s is faster than its nvlink4, 450 GB/s per direction" in notice for notice in notices) == said
    assert (made.all_reduce_ns(SIZE, 4) > H100.all_reduce_ns(SIZE, 4)) == (gb_per_s < 450)
    if said:
        assert made.all_reduce_ns(SIZE, 4) == H100.all_reduce_ns(SIZE, 4)


def test_a_ring_that_is_asked_for_has_the_bandwidth_that_is_given() -> None:
    """Named collectives that know links only take the user's word, without a notice about what they do not use."""
    made, notices = found({"device": "H100-SXM", "link": {"bandwidth_gb_per_s": 966.4}}, 4, "ring")
    plain = LINK_CLASSES["nvlink4"].link
    expected = Ring(Link(966.4e9, plain.latency_ns, plain.operation_ns))
    assert made.all_reduce_ns(SIZE, 4) == expected.all_reduce_ns(SIZE, 4)
    assert notices == []


def test_more_accelerators_than_a_machine_has() -> None:
    """They are taken to be joined by one switch, which is said; a topology says better, and its network costs more."""
    made, notices = found({"device": "H100-SXM"}, 16)
    assert "16 H100-SXM are taken to be joined by one switch of nvlink4; hgx_h100 has 8" in notices[0]
    two, none = found({"device": "H100-SXM", "topology": {"preset": "hgx_h100", "nodes": 2}}, 16)
    assert none == []
    assert two.all_reduce_ns(2**28, 16) > made.all_reduce_ns(2**28, 16)


def test_named_algorithms_know_the_device_s_links() -> None:
    """An algorithm by name works on the same level; one that it cannot carry is an error."""
    made, _ = found({"device": "H100-SXM"}, 8, "in_switch")
    assert made.algorithm_of("all_reduce", 1024, 8) == "in_switch on nvlink4"  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"cluster\.chat\.step\.collective: .*in_switch|no level of this topology"):
        found({"device": "MI300X"}, 8, "in_switch")


def test_a_machine_is_no_option_of_collectives() -> None:
    """Machines are said once, by hardware.topology."""
    with pytest.raises(InputError, match="unknown key 'nodes'"):
        found({"device": "H100-SXM"}, 8, {"kind": "auto", "nodes": 2})


def test_measured_tables_lie_beside_the_scenario(tmp_path: Path) -> None:
    """A table's path counts from the scenario's folder; what it lacks is done on the device's links."""
    (tmp_path / "mine.csv").write_text("operation,ranks,bytes,time_us\nall_reduce,4,1024,33\n")
    made, _ = found({"device": "H100-SXM"}, 4, {"kind": "measured", "path": "mine.csv"}, tmp_path)
    assert isinstance(made, MeasuredCollectives)
    assert made.all_reduce_ns(1024, 4) == 33_000
    assert made.all_gather_ns(SIZE, 4) == H100.all_gather_ns(SIZE, 4)
