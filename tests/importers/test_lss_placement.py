"""LLMServingSim's placements, CXL memory and local offloading, imported."""

from __future__ import annotations

from typing import Any

import pytest
from lss_helpers import Deployment, cluster_with

from servetwin.core.errors import InputError
from servetwin.scenario.importers.llmservingsim import LssFlags, import_scenario

CXL = {"mem_size": 1024, "mem_bw": 60.9, "mem_latency": 250.5, "num_devices": 4}
PLACEMENT: dict[str, Any] = {
    "default": {"weights": "cxl:0", "kv_loc": "npu", "kv_evict_loc": "cpu"},
    "blocks": [{"blocks": "4-7", "weights": "cxl:1"}, {"blocks": "8,9", "weights": "npu"}],
    "layers": {"lm_head": {"weights": "cxl:3"}, "o_proj": {"weights": "cpu"}, "rotary_emb": {"weights": "cpu"}},
}


def pool_of(deployment: Deployment, placement: object, mode: str = "lss", **options: Any) -> dict[str, Any]:
    """Return the pool of an instance with such a placement beside four CXL devices."""
    cluster = cluster_with({"placement": placement}, cxl_mem=options.pop("cxl_mem", CXL))
    pool: dict[str, Any] = deployment.scenario(cluster, mode=mode, **options)["cluster"][0]
    return pool


def test_rules_become_layers_and_operators(deployment: Deployment) -> None:
    """A layer's name goes before a block, a block before the default; what has no weights is left out."""
    pool = pool_of(deployment, PLACEMENT)
    assert pool["placement"]["layers"] == {"cxl0": "0-3,10-31", "cxl1": "4-7"}
    assert pool["placement"]["operators"] == {
        "embedding": "cxl0",
        "final_layernorm": "cxl0",
        "lm_head": "cxl3",
        "o_proj": "cpu",
    }
    devices = {device["name"]: device for device in pool["hardware"]["memory"]}
    assert set(devices) == {"cpu", "cxl0", "cxl1", "cxl3"}
    assert (devices["cxl0"]["bandwidth_gb_per_s"], devices["cxl0"]["latency_ns"]) == (60, 250)
    assert devices["cxl0"]["capacity_gb"] == pytest.approx(256 * 2**30 / 1e9)


def test_mode_lss_repeats_defect_9_by_keys(deployment: Deployment) -> None:
    """All loads at the start, memory charged all the same; default mode does neither, and has more KV blocks."""
    lss, ours = pool_of(deployment, PLACEMENT), pool_of(deployment, PLACEMENT, "default")
    assert (lss["placement"]["at_start"], lss["placement"]["frees_memory"]) == (True, False)
    assert not {"at_start", "frees_memory"} & set(ours["placement"])
    plain = pool_of(deployment, None)
    blocks = [pool["engine"]["num_gpu_blocks_override"] for pool in (lss, plain, ours)]
    assert blocks[0] == blocks[1] < blocks[2]
    assert "placement" not in plain
    assert "memory" not in plain["hardware"]


def test_a_placement_at_home_is_none(deployment: Deployment) -> None:
    """All rules say npu."""
    home = {"default": {"weights": "npu"}, "layers": {"moe": {"weights": "npu"}}}
    assert "placement" not in pool_of(deployment, home)


def test_kv_elsewhere_is_ignored_and_said(deployment: Deployment) -> None:
    """As LLMServingSim ignores it."""
    cluster = cluster_with({"placement": {"default": {"weights": "cpu", "kv_loc": "cpu"}}})
    imported = import_scenario(deployment.source(cluster, mode="lss"), deployment.folder)
    assert any("kv_loc" in notice and "ignored" in notice for notice in imported.notices)


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"default": {"weights": "ssd"}}, r"placement\.default\.weights: npu, cpu or cxl:<number> is allowed"),
        ({"default": {"weights": "cxl:4"}}, r"cxl:4' does not exist: cxl_mem has num_devices 4"),
        ({"default": {"kv_evict_loc": "cxl:0"}}, r"kv_evict_loc 'cxl:0' is not modelled yet \(KV tiers\)"),
        ({"blocks": [{"blocks": "3-1", "weights": "cpu"}]}, r"blocks\[0\]\.blocks: numbers and ranges"),
        ({"blocks": [{"blocks": "0-40", "weights": "cpu"}]}, r"block 32 does not exist"),
        ({"layers": {"lm_haed": {"weights": "cpu"}}}, r"did you mean 'lm_head'"),
        ({"default": {"weight": "cpu"}}, r"did you mean 'weights'"),
        ({"defaults": {}}, r"did you mean 'default'"),
    ],
)
def test_what_is_wrong_is_refused_by_its_path(deployment: Deployment, placement: object, message: str) -> None:
    """Places, blocks, layers and keys that do not exist; KV tiers by name."""
    with pytest.raises(InputError, match=message):
        pool_of(deployment, placement)


def test_cxl_needs_cxl_mem(deployment: Deployment) -> None:
    """And its three figures."""
    with pytest.raises(InputError, match="needs cxl_mem"):
        pool_of(deployment, PLACEMENT, cxl_mem=None)
    with pytest.raises(InputError, match="mem_bw"):
        pool_of(deployment, None, cxl_mem={"mem_size": 1, "mem_latency": 0})


def test_local_offloading_reads_weights_from_the_accelerators_own_memory(deployment: Deployment) -> None:
    """In mode lss all at once; in default mode each kernel reads its own. Nothing leaves, so that no KV is gained."""
    flags = LssFlags(enable_local_offloading=True)
    for mode, key in (("lss", "at_start"), ("default", "access")):
        (pool,) = deployment.scenario(cluster_with(), flags, mode=mode)["cluster"]
        (device,) = pool["hardware"]["memory"]
        assert (device["bandwidth_gb_per_s"], device["queue"], device["shared"]) == (1597, False, False)
        assert pool["placement"]["layers"] == {device["name"]: "0-31"}
        assert pool["placement"]["frees_memory"] is False
        assert key in pool["placement"]


def test_an_instance_may_offload_locally_by_itself(deployment: Deployment) -> None:
    """Its override counts."""
    (pool,) = deployment.scenario(cluster_with({"enable_local_offloading": True}))["cluster"]
    assert "placement" in pool
