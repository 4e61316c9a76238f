"""Flags and overrides: who wins, what the dialects' defaults are, and what is refused or ignored."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from lss_helpers import LEGACY, Deployment, cluster_with

from servetwin.core.errors import InputError
from servetwin.scenario.importers.llmservingsim import LssFlags
from servetwin.scenario.importers.llmservingsim.flags import PLUMBING, check_flags


def _engine(deployment: Deployment, instance: dict[str, Any], flags: LssFlags | None = None) -> dict[str, Any]:
    engine: dict[str, Any] = deployment.scenario(cluster_with(instance), flags)["cluster"][0]["engine"]
    return engine


OVERRIDES: dict[str, tuple[Any, Any, str]] = {
    "max_num_seqs": (64, 32, "max_num_seqs"),
    "max_num_batched_tokens": (1024, 512, "max_num_batched_tokens"),
    "long_prefill_token_threshold": (100, 200, "long_prefill_token_threshold"),
    "block_size": (32, 8, "block_size"),
    "enable_chunked_prefill": (False, True, "enable_chunked_prefill"),
    "enable_prefix_caching": (False, True, "enable_prefix_caching"),
    "reserve_full_isl": (False, True, "scheduler_reserve_full_isl"),
    "dtype": ("bfloat16", "float16", "dtype"),
}


@pytest.mark.parametrize("key", OVERRIDES)
def test_an_instance_wins_over_a_flag_over_the_default(deployment: Deployment, key: str) -> None:
    """The precedence of LSS, for every override that the engine has."""
    own, flag, name = OVERRIDES[key]
    flags = LssFlags(**{key: flag})
    if key != "dtype":  # only one variant is profiled
        assert _engine(deployment, {}, flags)[name] == flag
    assert _engine(deployment, {key: own}, flags)[name] == own


def test_memory_utilization_follows_the_same_precedence(deployment: Deployment) -> None:
    """npu_mem.mem_util, --npu-memory-utilization, 0.9: more memory, more blocks."""

    def blocks(flags: LssFlags | None, **memory: float) -> int:
        instance = {"npu_mem": {"mem_size": 96, "mem_bw": 1597, "mem_latency": 0, **memory}}
        found: int = _engine(deployment, instance, flags)["num_gpu_blocks_override"]
        return found

    assert blocks(None) == blocks(None, mem_util=0.9) == 36578 + 1
    assert blocks(LssFlags(npu_memory_utilization=0.5)) == blocks(None, mem_util=0.5) < 36578
    assert blocks(LssFlags(npu_memory_utilization=0.5), mem_util=0.9) == 36578 + 1


def test_defaults_of_the_dialects(deployment: Deployment) -> None:
    """Today: 128 sequences, prefix caching, LOAD, 0.9 of memory; older: unlimited, none, RR, all of it."""
    today = deployment.scenario(cluster_with())
    older = deployment.scenario(cluster_with(LEGACY))
    engines = [data["cluster"][0]["engine"] for data in (today, older)]
    assert [engine["max_num_seqs"] for engine in engines] == [128, 2048]
    assert [engine["enable_prefix_caching"] for engine in engines] == [True, False]
    assert [data["router"]["policy"] for data in (today, older)] == ["load", "round_robin"]
    assert engines[1]["num_gpu_blocks_override"] > engines[0]["num_gpu_blocks_override"]


def test_zero_means_no_limit(deployment: Deployment) -> None:
    """0 tokens are the context length, 0 sequences as many as tokens; more tokens than the context are cut."""
    engine = _engine(deployment, {}, LssFlags(max_num_batched_tokens=0, max_num_seqs=0))
    assert engine["max_num_batched_tokens"] == engine["max_num_seqs"] == 131072
    assert _engine(deployment, {}, LssFlags(max_num_batched_tokens=10**9))["max_num_batched_tokens"] == 131072


def test_limits_that_vllm_refuses_are_refused(deployment: Deployment) -> None:
    """More sequences than tokens in a step."""
    with pytest.raises(InputError, match="max_num_seqs 128 exceeds max_num_batched_tokens 64"):
        _engine(deployment, {"max_num_batched_tokens": 64})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (LssFlags(enable_prefix_sharing=True), "--enable-prefix-sharing is not modelled yet"),
        (LssFlags(prefix_storage="CPU"), "--prefix-storage CPU is not modelled yet"),
        (LssFlags(skip_prefill=True), "--skip-prefill cannot be honoured: it is inert"),
        (LssFlags(network_backend="ns3"), "--network-backend ns3 cannot be honoured"),
        (LssFlags(request_routing_policy="CUSTOM"), "CUSTOM cannot be honoured"),
        (LssFlags(request_routing_policy="LEAST"), "unknown value 'LEAST'"),
        (LssFlags(dtype="fp64"), "--dtype"),
        (LssFlags(block_size=0), "--block-size: at least 1"),
        (LssFlags(npu_memory_utilization=0.0), "--npu-memory-utilization"),
        (LssFlags(log_interval=0.0), "--log-interval"),
    ],
)
def test_flags_that_cannot_be_honoured_say_why(flags: LssFlags, message: str) -> None:
    """Refused by the flag's name, with the reason or the allowed values."""
    with pytest.raises(InputError) as caught:
        check_flags(flags)
    assert message in str(caught.value)


def test_run_plumbing_is_ignored_with_one_notice() -> None:
    """All of it in one line, by the names that were given; nothing given, nothing said."""
    values: dict[str, Any] = {
        "output": Path("o.csv"),
        "run_id": "x",
        "inputs_root": Path("i"),
        "cleanup_inputs": False,
        "log_level": "DEBUG",
        "enable_block_copy": False,
    }
    assert set(values) == set(PLUMBING)
    notices = check_flags(LssFlags(**values))
    assert len(notices) == 1
    assert all("--" + name.replace("_", "-") in notices[0] for name in PLUMBING)
    assert check_flags(LssFlags()) == []


def test_every_flag_has_a_fate() -> None:
    """The 29 flags of LSS: cluster and data set are files, the others stand in LssFlags."""
    assert len(fields(LssFlags)) == 29 - 2
