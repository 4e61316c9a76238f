"""Attention that LLMServingSim offloads to memory, imported."""

from __future__ import annotations

from typing import Any

import pytest
from lss_helpers import LEGACY, Deployment, cluster_with

from servetwin.core.errors import InputError
from servetwin.scenario.importers.llmservingsim import LssFlags

OFFLOADING = LssFlags(enable_attn_offloading=True)
TURNS = LssFlags(enable_attn_offloading=True, enable_sub_batch_interleaving=True)

INI = """bankgroups = 2
banks_per_group = 4
rows = 65536
columns = 1024
device_width = 16
BL = 8
tCK = 0.63
CL = 22
tRCD = 22
tRP = 22
tCCD_L = 8
channel_size = 8192
bus_width = 64
data_rate = 3200
idle_power = 623
peak_power = 3803
"""


def with_pim(deployment: Deployment, *instances: dict[str, Any]) -> dict[str, Any]:
    """Return a cluster whose host memory is DDR4 that computes."""
    folder = deployment.folder / "pim"
    folder.mkdir(exist_ok=True)
    (folder / "DDR4_8GB_3200_pim.ini").write_text(INI, encoding="utf-8")
    data = cluster_with(*instances)
    data["nodes"][0]["cpu_mem"]["pim_config"] = "DDR4_8GB_3200_pim"
    return data


def step_of(deployment: Deployment, cluster: dict[str, Any], flags: LssFlags, mode: str = "default") -> dict[str, Any]:
    """Return the imported step."""
    options = {"mode": mode, "pim_configs": deployment.folder / "pim"}
    step: dict[str, Any] = deployment.scenario(cluster, flags, **options)["cluster"][0]["step"]
    return step


def test_default_mode_gets_a_device_of_ours(deployment: Deployment) -> None:
    """From the file's geometry, with as many channels as the memory holds; interleaving where it gains."""
    cluster = with_pim(deployment)
    step = step_of(deployment, cluster, TURNS)
    assert (step["model"], step["base"]["model"], step["interleaving"]) == ("pim", "profile", "auto")
    assert step["pim"] == {"device": "pim/DDR4_8GB_3200_pim.ini", "memory_gib": 512}
    assert step["mapping"]["attention_decode"] == "pim"
    assert step_of(deployment, cluster, OFFLOADING)["interleaving"] == "off"


def test_mode_lss_names_each_difference_by_a_key(deployment: Deployment) -> None:
    """Coefficients, prompt lengths, attention one after the other, halves in every step."""
    step = step_of(deployment, with_pim(deployment), TURNS, "lss")
    assert (step["pim"]["model"], step["pim"]["kv_grows"]) == ("lss", False)
    assert (step["overlap"], step["interleaving"], step["decodes_again"]) == (False, "lss", False)
    assert step["base"]["host_io"] == {"bandwidth_gb_per_s": 1638, "latency_ns": 13}


def test_the_older_dialect_computes_decodes_twice_beside_prompts(deployment: Deployment) -> None:
    """By a key of its own, and its KV grows."""
    cluster = with_pim(deployment, LEGACY | {"hardware": "A6000"})
    step = step_of(deployment, cluster, OFFLOADING, "lss")
    assert step["decodes_again"] is step["pim"]["kv_grows"] is True


def test_without_the_flag_a_pim_is_only_memory(deployment: Deployment) -> None:
    """Its bandwidth and latency stand for those of the host's memory in mode lss, and nothing is offloaded."""
    cluster = with_pim(deployment)
    assert step_of(deployment, cluster, LssFlags())["model"] == "profile"
    assert step_of(deployment, cluster, LssFlags(), "lss")["host_io"]["bandwidth_gb_per_s"] == 1638


def test_an_instance_may_ask_by_itself(deployment: Deployment) -> None:
    """Its override counts."""
    cluster = with_pim(deployment, {"enable_attn_offloading": True})
    assert step_of(deployment, cluster, LssFlags())["model"] == "pim"


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        ({"pim_config": None}, OFFLOADING, "cpu_mem has no pim_config"),
        ({"pim_config": "DDR5"}, OFFLOADING, "no file .*DDR5.ini; there are: DDR4_8GB_3200_pim"),
        ({}, LssFlags(enable_sub_batch_interleaving=True), "needs enable_attn_offloading"),
    ],
)
def test_what_does_not_fit_is_refused(
    deployment: Deployment, change: dict[str, Any], flags: LssFlags, message: str
) -> None:
    """No memory that computes, one that does not exist, halves without offloading."""
    cluster = with_pim(deployment)
    memory = cluster["nodes"][0]["cpu_mem"] | change
    cluster["nodes"][0]["cpu_mem"] = {key: value for key, value in memory.items() if value is not None}
    with pytest.raises(InputError, match=message):
        step_of(deployment, cluster, flags)


def test_groups_and_stages_do_not_attend_in_memory_yet(deployment: Deployment) -> None:
    """Refused by name: the plans that they need know one place only."""
    cluster = with_pim(deployment, {"num_npus": 2, "tp_size": 1, "pp_size": 2})
    with pytest.raises(InputError, match=r"attention in memory with pp_size above 1 or a dp_group.*not modelled yet"):
        step_of(deployment, cluster, OFFLOADING)


POWER = {
    "base_node_power": 60,
    "npu": {"RTXPRO6000": {"idle_power": 35, "standby_power": 300, "active_power": 600, "standby_duration": 18}},
    "cpu": {"idle_power": 10, "active_power": 200, "util": 0.15},
    "dram": {"energy_per_bit": 6.0},
    "link": {"num_links": 1, "idle_power": 5, "energy_per_bit": 4.0},
    "nic": {"num_nics": 1, "idle_power": 20},
    "storage": {"num_devices": 2, "idle_power": 5},
}


@pytest.mark.parametrize("mode", ["lss", "default"])
def test_channels_that_compute_are_the_nodes_memory_in_its_power_too(deployment: Deployment, mode: str) -> None:
    """64 of 8 GB at 0.623 W in mode lss, without dimm_size in the file; in default mode they count by themselves."""
    cluster = with_pim(deployment)
    cluster["nodes"][0]["power"] = POWER
    pim_configs = deployment.folder / "pim"
    power = deployment.scenario(cluster, OFFLOADING, mode=mode, pim_configs=pim_configs)["power"]
    if mode == "lss":
        dram = power["lss"]["nodes"][0]["dram"]
        assert dram == {"dimm_size": 8.0, "idle_power": 0.623, "energy_per_bit": 6.0}
    else:
        assert power["node"]["dram"]["count"] == 0


def test_energy_of_turns_counts_once_per_request(deployment: Deployment) -> None:
    """As the study shows; on each channel without turns."""
    cluster = with_pim(deployment)
    assert step_of(deployment, cluster, TURNS, "lss")["pim"]["charged"] == "requests"
    assert "charged" not in step_of(deployment, cluster, OFFLOADING, "lss")["pim"]
