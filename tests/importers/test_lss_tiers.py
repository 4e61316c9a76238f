"""LLMServingSim's prefix storage becomes KV tiers, with its defects in mode lss, each by a key of its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lss_helpers import CLUSTER, Deployment, cluster_with

from servetwin.calibrate.lss_runs import LssRun
from servetwin.core.errors import InputError
from servetwin.core.units import GB, GIB
from servetwin.scenario.importers.llmservingsim import LssFlags

CXL = {"mem_size": 1024, "mem_bw": 60, "mem_latency": 250, "num_devices": 4}


def tiers_of(deployment: Deployment, cluster: dict[str, Any], mode: str = "lss", **flags: Any) -> dict[str, Any]:
    """Import, and return the tiers."""
    return deployment.scenario(cluster, LssFlags(**flags), mode=mode).get("tiers", {})


def test_without_storage_there_are_no_tiers(deployment: Deployment) -> None:
    """None is LSS's default; sharing nothing is a mistake."""
    assert tiers_of(deployment, cluster_with()) == {}
    assert tiers_of(deployment, cluster_with(), prefix_storage="None") == {}
    with pytest.raises(InputError, match="--enable-prefix-sharing: it needs --prefix-storage"):
        tiers_of(deployment, cluster_with(), enable_prefix_sharing=True)


def test_host_memory_is_private_or_of_the_node_and_its_device_one_queue(deployment: Deployment) -> None:
    """256 tokens a chunk, everything that is complete saved at once, and read by every accelerator."""
    cluster = cluster_with({}, {})
    cluster["nodes"].append(copy.deepcopy(cluster["nodes"][0]))
    cluster["num_nodes"] = 2
    private = tiers_of(deployment, cluster, prefix_storage="CPU")
    shared = tiers_of(deployment, cluster, prefix_storage="CPU", enable_prefix_sharing=True)
    assert private["levels"][0]["shared"] == "instance"
    assert shared == {
        "chunk_tokens": 256,
        "instances_per_node": 2,
        "saves": "all",
        "instant_writes": True,
        "levels": [
            {
                "kind": "host",
                "capacity_gb": 512 * GIB / GB,
                "bandwidth_gb_per_s": 256,
                "latency_us": 0.0,
                "shared": "node",
                "queue": "node",
                "repeat_reads": True,
            }
        ],
    }


@pytest.mark.parametrize(
    ("place", "mode", "bandwidth", "latency_us", "queue"),
    [
        (None, "lss", 256, 0.0, "node"),
        ("cpu", "lss", 256, 0.0, "node"),
        ("cxl:1", "lss", 60, 0.25, "cluster"),
        ("npu", "lss", 1597, 0.0, "instance"),
        ("cpu", "default", 60, 0.25, "cluster"),
    ],
)
def test_defect_8_charges_the_device_of_kv_evict_loc(
    deployment: Deployment, place: str | None, mode: str, bandwidth: int, latency_us: float, queue: str
) -> None:
    """A CXL tier is read at the host's rate unless another device is named; in default mode at its own."""
    placement = {} if place is None else {"placement": {"default": {"kv_evict_loc": place}}}
    cluster = cluster_with(placement, cxl_mem=CXL)
    tiers = tiers_of(deployment, cluster, mode, prefix_storage="CXL", enable_prefix_sharing=True)
    (level,) = tiers["levels"]
    assert (level["kind"], level["shared"], level["capacity_gb"]) == ("cxl", "cluster", 1024 * GIB / GB)
    assert (level["bandwidth_gb_per_s"], level["latency_us"], level["queue"]) == (bandwidth, latency_us, queue)
    assert level.get("repeat_reads", False) is (mode == "lss")


def test_default_mode_saves_prompts_and_takes_its_time(deployment: Deployment) -> None:
    """None of LSS's shortcuts is in it."""
    tiers = tiers_of(deployment, cluster_with(), "default", prefix_storage="CPU")
    assert tiers.keys() == {"chunk_tokens", "levels", "instances_per_node"}


@pytest.mark.parametrize(
    ("cluster", "flags", "message"),
    [
        (CLUSTER, {"prefix_storage": "CXL"}, "--prefix-storage: CXL needs cxl_mem"),
        (
            cluster_with(
                {"placement": {"default": {"kv_evict_loc": "cxl:0"}}},
                {"placement": {"default": {"kv_evict_loc": "cpu"}}},
                cxl_mem=CXL,
            ),
            {"prefix_storage": "CXL"},
            "different devices for kv_evict_loc (cpu, cxl:0)",
        ),
    ],
)
def test_mistakes_say_what_is_missing(
    deployment: Deployment, cluster: dict[str, Any], flags: dict[str, Any], message: str
) -> None:
    """By the flag, or by the devices that disagree."""
    with pytest.raises(InputError) as caught:
        tiers_of(deployment, cluster, **flags)
    assert message in str(caught.value)


@pytest.mark.measured
def test_recalls_of_a_real_workload_are_charged_as_lss_does(reference: Path) -> None:
    """Six pulses that come back: each recall takes latency + whole chunks' bytes / bandwidth, and lengthens TTFT."""
    run = LssRun(
        "ispass26/figure_7/config/MD+PC+PS_config.json",
        "ispass26/workloads/sharegpt_pulse_req50_n6_delay15_pc.jsonl",
        profiles="profiles-v0",
        flags=LssFlags(enable_prefix_caching=True, enable_prefix_sharing=True, prefix_storage="CPU"),
    )
    result = run.simulate(reference, "lss")
    (tier,) = result.outcome.tiers
    assert tier.instances == [0, 1]
    recalls = [log for log in result.outcome.logs if log.recall_ns]
    assert recalls
    chunk_ns = tier.tier.chunk_bytes / 128
    for log in recalls:
        for tokens, start_ns, end_ns in zip(log.recall_tokens, log.recall_ns, log.recalled_ns, strict=True):
            assert end_ns - start_ns >= np.floor(-(-tokens // 256) * chunk_ns)
    free = run.simulate(reference, "lss", {"tiers.levels.0.bandwidth_gb_per_s": 1e6})
    first = min((log.recall_ns[0], log.recall_request[0]) for log in recalls)[1]
    assert result.requests["recall_s"][first] > 1e-4
    assert result.requests["ttft_s"][first] - free.requests["ttft_s"][first] >= 0.9 * chunk_ns / 1e9
