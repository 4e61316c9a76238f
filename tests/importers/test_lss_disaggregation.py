"""Deployments with pd_type: what the imported scenario says, and that LLMServingSim's own files run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from lss_helpers import Deployment, cluster_with

from servetwin.calibrate.lss_runs import LssRun
from servetwin.core.units import GIB
from servetwin.scenario.importers.llmservingsim import LssFlags

PREFILL, DECODE = {"pd_type": "prefill"}, {"pd_type": "decode", "max_num_seqs": 7}

CLUSTERS = (
    "single_node_pd_instance",
    "single_node_moe_pd_instance",
    "single_node_pd_per_instance_config",
    "single_node_heterogeneous",
)


def test_roles_become_pools(deployment: Deployment) -> None:
    """Equal neighbours of one role are replicas; settings of an instance stay its own."""
    pools = deployment.scenario(cluster_with(PREFILL, PREFILL, DECODE))["cluster"]
    assert [(pool["role"], pool["replicas"]) for pool in pools] == [("prefill", 2), ("decode", 1)]
    assert pools[1]["engine"]["max_num_seqs"] == 7


def test_both_hops_are_routed_alike(deployment: Deployment) -> None:
    """LLMServingSim has one routing policy."""
    data = deployment.scenario(cluster_with(PREFILL, DECODE), LssFlags(request_routing_policy="RR"))
    assert data["router"] == data["disaggregation"]["router"] == {"policy": "round_robin"}


def test_default_mode_moves_kv_over_the_outermost_link(deployment: Deployment) -> None:
    """At the file's bandwidth (2**30 bytes per second); what software costs is servetwin's default."""
    found = deployment.scenario(cluster_with(PREFILL, DECODE))["disaggregation"]
    assert found["port"] == {"bandwidth_gb_per_s": 16 * GIB / 1e9}
    assert set(found) == {"port", "router"}


def test_mode_lss_hands_over_at_once(deployment: Deployment) -> None:
    """Transfers are within the prefill there, and the first token is made on that side."""
    found = deployment.scenario(cluster_with(PREFILL, DECODE), mode="lss")["disaggregation"]
    assert (found["connector"], found["first_token"]) == ("instant", "prefill")


def test_a_deployment_without_roles_says_nothing_of_them(deployment: Deployment) -> None:
    """Neither a role nor a way from prefill to decode."""
    data = deployment.scenario(cluster_with({}, {}))
    assert "disaggregation" not in data
    assert "role" not in data["cluster"][0]


@pytest.mark.measured
@pytest.mark.parametrize("mode", ["lss", "default"])
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_cluster_files_of_llmservingsim_run(reference: Path, cluster: str, mode: Literal["lss", "default"]) -> None:
    """Every prompt is computed on the one side and every output on the other; mode lss moves KV in no time."""
    flags = LssFlags(num_reqs=10)
    run = LssRun(
        f"configs/cluster/{cluster}.json", "workloads/example_trace.jsonl", flags=flags, models="configs/model"
    )
    requests = run.simulate(reference, mode).requests
    assert set(requests["state"]) == {"completed"}
    assert set(requests["prefill_instance"]) == {"lss0-0"}
    assert set(requests["instance"]) == {"lss1-0"}
    assert (requests["transfer_s"] == 0).all() == (mode == "lss")
