"""Pipelines, lockstep groups and experts of LLMServingSim's cluster files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lss_helpers import LEGACY, Deployment, cluster_with

from servetwin.core.errors import InputError
from servetwin.scenario.importers.llmservingsim import LssFlags, LssSource, import_scenario
from servetwin.scenario.importers.llmservingsim.cluster import read_cluster
from servetwin.scenario.load import load_scenario

MOE = {"model_name": "Qwen/Qwen3-30B-A3B-Instruct-2507"}
GROUP = {"dp_group": "A"}


@pytest.mark.parametrize(
    ("instances", "dimensions"),
    [
        (({},), (1,)),
        (({"num_npus": 4, "tp_size": 4},), (4,)),
        (({"num_npus": 4, "tp_size": 1, "pp_size": 4},), (4,)),
        (({"num_npus": 4, "tp_size": 2, "pp_size": 2},), (2, 2)),
        (({"num_npus": 2, "tp_size": 2},) * 4, (2, 4)),
        (({}, {}), (1, 2)),
        ((GROUP, GROUP), (1, 2)),
        (({"num_npus": 4, "tp_size": 2, "pp_size": 2} | GROUP,) * 2, (2, 2, 2)),
        (({"num_npus": 2, "tp_size": 2} | GROUP,), (2,)),
        ((LEGACY | {"npu_num": 4, "npu_group": 2},), (2, 2)),
    ],
)
def test_the_network_has_lss_dimensions(
    deployment: Deployment, instances: tuple[dict[str, Any], ...], dimensions: tuple[int, ...]
) -> None:
    """Tensor ranks, then stages, then data-parallel ranks or instances (FORMATS, section 2.6)."""
    cluster = read_cluster(deployment.write(cluster_with(*instances)))
    assert cluster.dimensions == dimensions
    assert len(cluster.link_bandwidths_gib_per_s) == len(dimensions)


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        (({"dp_group": "A"}, {}, {"dp_group": "A"}), "others stand between them"),
        (({"dp_group": "A"}, {"dp_group": "A", "num_npus": 2, "tp_size": 2}), "tp_size is 2, but 1 in"),
        (({"dp_group": "A"}, {"dp_group": "A", "ep_size": 2}), "ep_size is 2, but None in"),
    ],
)
def test_members_of_a_group_are_equal_neighbours(
    deployment: Deployment, instances: tuple[dict[str, Any], ...], message: str
) -> None:
    """The message names the key, both figures and the other instance."""
    with pytest.raises(InputError, match=message):
        read_cluster(deployment.write(cluster_with(*instances)))


def test_links_have_one_value_per_dimension(deployment: Deployment) -> None:
    """A list must be as long as the network has dimensions."""
    cluster = cluster_with(GROUP, GROUP, link_bw=[128, 16], link_latency=[500, 20000])
    assert read_cluster(deployment.write(cluster)).link_latencies_ns == (500, 20000)
    with pytest.raises(InputError, match=r"one value per dimension of the network \(1 x 2\) is needed, found 3"):
        read_cluster(deployment.write(cluster_with(GROUP, GROUP, link_bw=[1, 2, 3])))


def _imported(reference: Path, name: str, folder: Path, mode: str = "default", **more: Any) -> dict[str, Any]:
    root = reference / "llmservingsim"
    source = LssSource(
        root / f"configs/cluster/{name}.json",
        root / "workloads/example_trace.jsonl",
        root / "profiles-v1",
        root / "configs/model",
        mode=mode,  # type: ignore[arg-type]
        **more,
    )
    data = import_scenario(source, folder).data
    load_scenario(data, folder=folder)
    return data


@pytest.mark.measured
def test_a_group_becomes_one_replica_of_several_ranks(reference: Path, tmp_path: Path) -> None:
    """Its degrees by vLLM's names; in mode lss with LSS's waves, network and experts."""
    (pool,) = _imported(reference, "single_node_moe_dp_tp_pp_instance", tmp_path, "lss")["cluster"]
    degrees = {key: value for key, value in pool["engine"].items() if "parallel" in key}
    assert degrees == {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 2,
        "data_parallel_size": 2,
        "enable_expert_parallel": True,
    }
    assert pool["step"]["plan"] == {"kind": "lss_waves", "late_members_join_idle": True, "lead_ns": 20000}
    assert pool["step"]["experts"] == {"routing": "lss_balanced"}
    assert [level["ranks"] for level in pool["step"]["collective"]["dimensions"]] == [2, 2, 2]


@pytest.mark.measured
@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("single_node_dp_instance", {}),
        ("single_node_moe_dp_ep_instance", {}),
        ("single_node_moe_dp_tp_instance", {"late_members_join_idle": True}),
        ("single_node_moe_dp_pp_instance", {"late_members_join_idle": True, "lead_ns": 20000}),
        ("dual_node_moe_dp_ep_intra_inter_instance", {"late_members_join_idle": True, "lead_ns": 20000}),
    ],
)
def test_late_members_join_idle_where_lss_lets_them(
    reference: Path, tmp_path: Path, name: str, plan: dict[str, Any]
) -> None:
    """In pipelines and for experts on several accelerators; a lead is bounded where experts are on other members'."""
    (pool,) = _imported(reference, name, tmp_path, "lss")["cluster"]
    assert pool["step"]["plan"] == {"kind": "lss_waves"} | plan


@pytest.mark.measured
def test_nodes_are_levels_in_default_mode(reference: Path, tmp_path: Path) -> None:
    """Within a node the device's own link, between nodes a network, both at the file's bandwidth."""
    (pool,) = _imported(reference, "dual_node_moe_dp_ep_intra_inter_instance", tmp_path)["cluster"]
    inner, outer = pool["hardware"]["topology"]["levels"]
    assert (inner["size"], outer["size"]) == (2, 2)
    assert inner["bandwidth_gb_per_s"] == pytest.approx(128 * 2**30 / 10**9)
    assert outer["link"] == "ethernet_100g"
    assert "plan" not in pool["step"]


@pytest.mark.measured
def test_expert_routing_policies_find_their_routing(reference: Path, tmp_path: Path) -> None:
    """In mode lss the routing that does what LSS does, else the one that its policy means."""
    flags = LssFlags(expert_routing_policy="RR")
    name = "single_node_moe_single_instance"
    lss = _imported(reference, name, tmp_path, "lss", flags=flags)["cluster"][0]["step"]["experts"]
    ours = _imported(reference, name, tmp_path, flags=flags)["cluster"][0]["step"]["experts"]
    assert (lss["routing"], ours["routing"]) == ("lss_round_robin", "round_robin")


@pytest.mark.measured
@pytest.mark.parametrize("name", ["rtx4090_tp2_instance", "single_node_single_instance_H100"])
def test_without_a_profile_the_roofline_is_offered(reference: Path, tmp_path: Path, name: str) -> None:
    """The error names what is missing and the way on, which works."""
    with pytest.raises(InputError, match=r"--step roofline"):
        _imported(reference, name, tmp_path)
    assert _imported(reference, name, tmp_path, step="roofline")["cluster"][0]["step"]["model"] == "roofline"


def test_lss_has_no_roofline(deployment: Deployment) -> None:
    """Mode lss computes as LSS does, from profiles."""
    with pytest.raises(InputError, match="--mode lss needs --step profile"):
        deployment.scenario(cluster_with(), mode="lss", step="roofline")


@pytest.mark.measured
def test_a_group_of_single_accelerators_exchanges_over_the_devices_own_links(reference: Path, tmp_path: Path) -> None:
    """In default mode; mode lss keeps the file's figures."""
    name = "single_node_moe_dp_ep_instance"
    ours = _imported(reference, name, tmp_path)["cluster"][0]["hardware"]
    assert ours["topology"] == {"levels": [{"size": 2, "link": "pcie_gen5"}]}
    lss = _imported(reference, name, tmp_path, "lss")["cluster"][0]["hardware"]
    assert lss["link"] == {"bandwidth_gb_per_s": 16, "latency_ns": 20000}
