"""The key ``tiers``: whose stores are one, how many chunks fit, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import servetwin
from servetwin.core.errors import InputError
from servetwin.memory.tiers import TiersSpec
from servetwin.scenario.build import build
from servetwin.scenario.load import load_scenario

LLAMA_BYTES_PER_TOKEN = 131_072


def scenario(tiers: Any, *, replicas: int = 4, pools: int = 1, **changes: Any) -> dict[str, Any]:
    """Return pools of instances of Llama-3.1-8B with steps of 1 ms."""
    engine = {"num_gpu_blocks_override": 200, "max_model_len": 2048}
    pool = {"replicas": replicas, "engine": engine, "step": {"model": "fixed", "step_ns": 1_000_000}}
    return {
        "model": "meta-llama/Llama-3.1-8B",
        "cluster": [pool | {"name": f"p{number}"} | changes for number in range(pools)],
        "tiers": tiers,
        "workload": {
            "kind": "synthetic",
            "requests": 120,
            "arrivals": {"kind": "poisson", "rate_per_s": 400},
            "shared_prefix": {
                "num_groups": 12,
                "num_prompts_per_group": 10,
                "system_prompt_len": 600,
                "question_len": 30,
                "output_len": 6,
            },
        },
    }


def tiers_of(data: dict[str, Any]) -> list[TiersSpec]:
    """Return the tiers of each instance."""
    found = [spec.tiers for spec in build(load_scenario(data)).instances]
    assert all(found)
    return found  # type: ignore[return-value]


def test_tiers_are_private_or_of_nodes_or_of_the_cluster() -> None:
    """Four instances, two per node: four stores, two, one; queues go by their own key."""
    levels = [
        {"kind": "host"},
        {"kind": "ssd", "shared": "node", "queue": "instance"},
        {"kind": "remote", "shared": "cluster"},
    ]
    specs = tiers_of(scenario({"levels": levels, "instances_per_node": 2}))
    assert [len({spec.tiers[level] for spec in specs}) for level in range(3)] == [4, 2, 1]
    assert [len({spec.devices[level] for spec in specs}) for level in range(3)] == [4, 4, 1]
    assert specs[0].tiers[1] is specs[1].tiers[1] is not specs[2].tiers[1]
    assert [tier.name for tier in specs[3].tiers] == ["host-3", "ssd-1", "remote"]


def test_a_pool_may_have_tiers_of_its_own() -> None:
    """They are not those of other pools, even of the cluster."""
    own = {"levels": [{"kind": "host", "shared": "cluster"}]}
    data = scenario([{"kind": "remote", "shared": "cluster"}], pools=3)
    data["cluster"][1]["tiers"] = own
    specs = tiers_of(data)
    assert [spec.tiers[0].name for spec in specs[::4]] == ["remote", "p1-host", "remote"]
    assert specs[0].tiers[0] is specs[8].tiers[0]


def test_capacity_and_time_follow_from_bytes() -> None:
    """1 GB holds 29 chunks of 256 tokens; reading one at 25 GB/s (an unknown PCIe link) takes 1.34 ms and 10 us."""
    (spec,) = tiers_of(scenario([{"kind": "host", "capacity_gb": 1}], replicas=1))
    (tier,), (device,) = spec.tiers, spec.devices
    assert tier.chunk_bytes == 256 * LLAMA_BYTES_PER_TOKEN
    assert tier.capacity_chunks == 10**9 // tier.chunk_bytes == 29
    assert device.duration_ns(tier.chunk_bytes) == 10_000 + round(tier.chunk_bytes / 25)


def test_chunks_are_whole_blocks() -> None:
    """256 tokens with blocks of 48 are chunks of 240."""
    data = scenario([{"kind": "host"}])
    data["cluster"][0]["engine"]["block_size"] = 48
    assert tiers_of(data)[0].chunk_tokens == 240


@pytest.mark.parametrize(
    ("tiers", "engine", "message"),
    [
        ([{"kind": "host", "capacity_gb": 0.03}], {}, "tiers.levels[0].capacity_gb: tier 'host' of 0.03 GB is smaller"),
        ([{"kind": "host"}], {"enable_prefix_caching": False}, "KV tiers need enable_prefix_caching"),
        ({"levels": [{"kind": "host"}], "chunk_tokens": 8}, {}, "a chunk of 8 tokens is smaller than a KV block of 16"),
        ([{"kind": "host", "eviction": "lruu"}], {}, "did you mean 'lru'"),
        ([{"kind": "disk"}], {}, "tiers.0.kind: given 'disk'"),
        ([{"kind": "host"}, {"kind": "host"}], {}, "two tiers have the name 'host'"),
        ([], {}, "at least one tier is needed"),
    ],
)
def test_mistakes_name_the_key(tiers: Any, engine: dict[str, Any], message: str) -> None:
    """And what is allowed."""
    data = scenario(tiers)
    data["cluster"][0]["engine"] |= engine
    with pytest.raises(InputError) as caught:
        build(load_scenario(data))
    assert message in str(caught.value)


def test_pools_that_share_a_tier_have_the_same_kv() -> None:
    """The error names both pools and their chunks; private tiers may differ."""
    data = scenario([{"kind": "remote", "shared": "cluster"}], pools=2)
    data["cluster"][1]["engine"] = data["cluster"][1]["engine"] | {"kv_cache_dtype": "fp8"}
    with pytest.raises(InputError, match="pools p0 and p1 share a tier"):
        build(load_scenario(data))
    data["tiers"] = [{"kind": "host"}]
    assert len(tiers_of(data)) == 8


def test_results_tell_what_tiers_held_and_gave() -> None:
    """Hits by tier add up to the requests' columns and the rates; what was held never exceeds the capacity."""
    levels = [{"kind": "host", "capacity_gb": 0.4}, {"kind": "remote", "shared": "cluster", "latency_us": 50}]
    result = servetwin.simulate(scenario(levels, replicas=2), check_invariants=True)
    table, summary = result.requests, result.summary
    assert [tier["name"] for tier in summary["tiers"]] == ["host-0", "remote", "host-1"]
    assert all(tier["peak_used_bytes"] <= (tier["capacity_bytes"] or 1e12) for tier in summary["tiers"])
    tokens = int(table["tier_tokens"].sum())
    assert tokens > 0
    assert summary["kv"]["tier_hit_rate"] == tokens / summary["tokens"]["prompt"]
    recalled = table["tier_tokens"] > 0
    assert (table["recall_s"][recalled] >= 10e-6).all()
    assert (table["recall_s"][~recalled] == 0).all()
    assert (table["recall_s"] <= table["prefill_s"]).all()
    held = result.resources
    remote = (held["kind"] == "tier") & (held["name"] == "remote")
    used = held["value"][remote & (held["metric"] == "used_bytes")]
    stored = held["value"][remote & (held["metric"] == "stored_chunks_per_s")]
    assert stored.sum() == summary["tiers"][1]["stored_chunks"]
    assert 0 <= used.max() <= summary["tiers"][1]["peak_used_bytes"]


@pytest.mark.parametrize("load", ["blocking", "async"])
def test_what_came_from_tiers_is_counted_however_it_is_loaded(load: str) -> None:
    """A document is computed once or twice and recalled by the others, whoever waits for it."""
    tiers = {"load": load, "levels": [{"kind": "host", "shared": "cluster"}]}
    data = scenario(tiers)
    data["cluster"][0]["engine"] |= {"num_gpu_blocks_override": 60, "max_model_len": 700}
    result = servetwin.simulate(data, check_invariants=True)
    assert result.summary["kv"]["tier_hit_rate"] > 0.3
    assert int((result.requests["tier_tokens"] > 0).sum()) >= 60
    assert (result.requests["recall_s"][result.requests["tier_tokens"] > 0] > 0).all()


def test_the_report_shows_tiers(tmp_path: Any) -> None:
    """A section with one line per tier."""
    result = servetwin.simulate(scenario([{"kind": "host"}], replicas=2))
    page = (result.write(tmp_path) / "report.html").read_text(encoding="utf-8")
    assert "KV tiers" in page
    assert "host-1" in page


def test_without_tiers_nothing_is_said_of_them() -> None:
    """No columns, no summary, no resources."""
    data = scenario(None, replicas=1)
    result = servetwin.simulate(data)
    assert "tiers" not in result.summary
    assert "tier_tokens" not in result.requests
    assert "tier" not in set(result.resources["kind"])
