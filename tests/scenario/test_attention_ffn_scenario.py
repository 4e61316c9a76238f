"""Attention/FFN disaggregation in a scenario: memory on both sides, results, energy and cost, what does not go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import servetwin
from servetwin.core.errors import InputError
from servetwin.energy.ffn import waves_of
from servetwin.scenario.build import Deployment, build
from servetwin.scenario.load import load_scenario
from servetwin.scenario.resolved import resolved_facts

QWEN = "Qwen/Qwen3-30B-A3B"


def scenario(
    ffn: dict[str, Any] | None = None, model: str = QWEN, step: object = "roofline", rate: float = 8.0, **more: Any
) -> dict[str, Any]:
    """Return a scenario of H20 that attend and H100 that hold the FFNs; ``ffn`` changes what it says of these."""
    engine = {"data_parallel_size": 2, "max_num_batched_tokens": 1024} | more.pop("engine", {})
    hardware: dict[str, Any] = {"device": "H20"} | more.pop("hardware", {})
    if ffn is not None:
        hardware["ffn"] = {"device": "H100-SXM", "count": 2} | ffn
    workload = {
        "kind": "synthetic",
        "requests": 40,
        "arrivals": {"kind": "poisson", "rate_per_s": rate},
        "prompt_tokens": 300,
        "output_tokens": 20,
    }
    pool = {"name": "p", "hardware": hardware, "engine": engine, "step": step} | more.pop("pool", {})
    return {"model": model, "cluster": [pool], "workload": workload, **more}


def built(**options: Any) -> Deployment:
    """Return the deployment of a scenario."""
    return build(load_scenario(scenario(**options)))


@pytest.mark.parametrize(("model", "ranks"), [(QWEN, 2), (QWEN, 1), ("meta-llama/Llama-3.1-8B", 2)])
def test_every_request_is_served(model: str, ranks: int) -> None:
    """Ranks of a group serve all requests, with experts or without, several or one."""
    result = servetwin.simulate(scenario(ffn={}, model=model, engine={"data_parallel_size": ranks}))
    requests = result.summary["requests"]
    assert requests["completed"] == requests["total"] == 40


def test_the_result_says_where_it_is_limited() -> None:
    """The sentence on limits names the busiest resource; the summary has the share of each."""
    light = servetwin.simulate(scenario(ffn={"port": {"bandwidth_gb_per_s": 1}}, rate=1.0))
    assert "a typical step is bound by the " in light.limit
    assert "micro-batch" in light.limit
    slow_link = servetwin.simulate(scenario(ffn={"port": {"bandwidth_gb_per_s": 0.1}})).summary["attention_ffn"]["p"]
    fast_link = servetwin.simulate(scenario(ffn={})).summary["attention_ffn"]["p"]
    assert slow_link["limited_by"] == "link"
    assert fast_link["link_busy"] < 0.2 < 0.5 < slow_link["link_busy"] <= 1
    assert 0 < fast_link["ffn_busy"] <= 1
    assert 1 <= fast_link["micro_batches"] <= 4
    assert "attention_ffn" not in servetwin.simulate(scenario()).summary


def test_attention_devices_hold_no_experts() -> None:
    """Their KV cache grows by what the experts took; FFN devices hold these, and no KV."""
    whole, apart = built(engine={"data_parallel_size": 1}), built(ffn={}, engine={"data_parallel_size": 1})
    (before,), (after,) = whole.replicas, apart.replicas
    facts = resolved_facts(apart)["pools"]["p"]["ffn"]
    assert before.weight_bytes == after.weight_bytes + facts["weight_bytes"]
    assert facts["accelerators"] == 2
    assert "kv_cache" not in facts["memory_bytes_per_accelerator"]
    freed = before.weight_bytes - after.weight_bytes
    grown = (after.num_gpu_blocks - before.num_gpu_blocks) * after.kv_bytes_per_block
    assert freed <= grown <= freed * 1.05


def test_the_parts_of_the_energy_add_up() -> None:
    """FFN devices are a pool of their own in energy and cost; requests carry theirs, too."""
    prices = {"H20": {"on_demand": 1.0}, "H100-SXM": {"on_demand": 3.0}}
    result = servetwin.simulate(scenario(ffn={}, power={}, cost={"plan": "on_demand", "devices": prices}))
    energy = result.energy
    assert energy is not None
    attention, ffn = energy.pools
    assert (attention.name, ffn.name) == ("p", "p.ffn")
    pools = energy.pool_components_j
    assert sum(map(sum, (parts.values() for parts in pools.values()))) == pytest.approx(energy.total_j)
    assert energy.request_j.sum() == pytest.approx(energy.total_j)
    idle_j = 2 * 60.0 * energy.duration_s
    assert sum(pools["p.ffn"].values()) > idle_j
    waves = waves_of([item.steps for item in ffn.instances])
    assert waves.steps.columns.num_tokens.sum() == pytest.approx(
        sum(item.steps.columns.num_tokens.sum() for item in ffn.instances)
    )
    shares = np.bincount(np.concatenate(waves.wave), np.concatenate(waves.share))
    assert shares == pytest.approx(np.ones(len(waves.steps.start_ns)))
    cost = result.summary["cost"]["pools"]
    assert cost["p.ffn"]["total"] == pytest.approx(3 * cost["p"]["total"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ffn": {"device": "H1000"}}, r"cluster\.p\.hardware\.ffn\.device: unknown device"),
        ({"ffn": {"count": 0}}, r"cluster\.p\.hardware\.ffn\.count: given 0"),
        ({"ffn": {"count": 129}}, r"cluster\.p\.hardware\.ffn\.count: .*129 FFN devices cannot share 128 experts"),
        ({"ffn": {"count": 3}, "model": "meta-llama/Llama-3.1-8B"}, r"ffn\.count: .*3 FFN devices do not divide"),
        (
            {"ffn": {"device": "L4", "count": 1}},
            r"cluster\.p\.hardware\.ffn\.count: the FFNs of \S+ do not fit on 1 x L4: .*it fits from count \d on",
        ),
        ({"ffn": {"link": {"bandwidth_gb_per_s": 9}}}, r"ffn\.link: these FFN devices exchange nothing among them"),
        ({"ffn": {"prot": {}}}, r"unknown key 'prot'"),
        ({"ffn": {}, "engine": {"enable_dbo": True}}, r"hardware\.ffn .*does not go with engine\.enable_dbo"),
        ({"ffn": {}, "engine": {"pipeline_parallel_size": 2}}, r"does not go with engine\.pipeline_parallel_size"),
        ({"ffn": {}, "step": {"model": "roofline", "plan": "lockstep"}}, r"does not go with step\.plan\.kind"),
        (
            {"ffn": {}, "step": {"model": "affine", "base_ns": 1.0, "per_token_ns": 1.0}},
            r"step\.model: the step model 'affine' has times of whole layers, not of attention and FFN",
        ),
        (
            {"step": {"model": "roofline", "plan": "attention_ffn"}},
            r"cluster\.p\.hardware\.ffn: the plan 'attention_ffn' needs devices for the FFNs",
        ),
        (
            {"ffn": {}, "step": {"model": "roofline", "plan": {"kind": "attention_ffn", "micro_batches": 99}}},
            r"step\.plan\.micro_batches: must be from 1 to 16, got 99",
        ),
        (
            {"ffn": {}, "pool": {"cold_start": {"storage_gb_per_s": 2.0}}},
            r"hardware\.ffn .*does not go with cold_start",
        ),
        ({"ffn": {}, "pool": {"placement": "auto"}}, r"hardware\.ffn .*does not go with placement"),
        ({"ffn": {}, "power": {"cap_w": 400}}, r"power: caps and clocks are chosen for one kind of device"),
    ],
)
def test_what_does_not_go_says_where_and_why(options: dict[str, Any], message: str) -> None:
    """Errors name the key under which the FFN devices stand, and what would do."""
    with pytest.raises(InputError, match=message):
        built(**options)
