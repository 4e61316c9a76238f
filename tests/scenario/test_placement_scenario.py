"""Scenarios with weights elsewhere: keys, errors by their path, automatic placement, cold starts."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from servetwin.core.errors import InputError
from servetwin.scenario.build import Deployment, build
from servetwin.scenario.load import load_scenario
from servetwin.scenario.placement import layers_named
from servetwin.scenario.resolved import resolved_facts
from servetwin.scenario.run import simulate
from servetwin.step.base import StepShape

SCENARIO: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B",
    "cluster": [
        {
            "name": "a",
            "hardware": {
                "device": "L4",
                "memory": [{"name": "host", "capacity_gb": 64, "bandwidth_gb_per_s": 25, "latency_ns": 10_000}],
            },
            "engine": {"max_num_seqs": 16, "max_model_len": 4096},
            "placement": {"layers": {"host": 8}},
        }
    ],
    "workload": {
        "kind": "synthetic",
        "requests": 10,
        "arrivals": {"kind": "poisson", "rate_per_s": 2},
        "prompt_tokens": 64,
        "output_tokens": 8,
    },
}


def built(pool: dict[str, Any] | None = None, **engine: Any) -> Deployment:
    """Return the scenario with other keys of its pool."""
    data = deepcopy(SCENARIO)
    data["cluster"][0] |= pool or {}
    data["cluster"][0]["engine"] |= engine
    return build(load_scenario(data))


def kv_blocks(placement: Any) -> int:
    """Return the KV blocks of the scenario with such a placement."""
    return built({"placement": placement}).instances[0].settings.num_blocks


def test_layers_elsewhere_are_room_for_kv_and_time() -> None:
    """More blocks, longer steps; a run serves everybody."""
    deployment = built()
    assert kv_blocks({"layers": {"host": 8}}) > kv_blocks(None) + 1000
    shape = StepShape(4, 4000, (), 1000, 1000)
    here = built({"placement": None}).instances[0].step_model
    there = deployment.instances[0].step_model
    assert here is not None
    assert there is not None
    assert there.duration_ns(shape) > here.duration_ns(shape)
    assert "weight_load" in there.breakdown_ns(shape)
    assert simulate(deployment).summary["requests"]["completed"] == 10


def test_llmservingsims_way_frees_nothing() -> None:
    """By its key."""
    assert kv_blocks({"layers": {"host": 8}, "frees_memory": False}) == kv_blocks(None)


def test_kv_elsewhere_makes_more_blocks_until_its_device_is_full() -> None:
    """Half of the tokens elsewhere: nearly twice the blocks, and no more than have room there."""
    half = {"kv": {"device": "host", "share": 0.5}}
    blocks = kv_blocks(half)
    assert blocks == pytest.approx(kv_blocks(None) / (0.5 + 1 / 32), rel=0.01)
    memory = {"memory": [{"name": "host", "capacity_gb": 1.048576, "bandwidth_gb_per_s": 25}]}
    small = built({"placement": half, "hardware": {"device": "L4"} | memory})
    assert small.instances[0].settings.num_blocks == 1000 - 1


@pytest.mark.parametrize("engine", [{"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}])
def test_ranks_and_stages(engine: dict[str, int]) -> None:
    """Both serve everybody, each rank or stage with its part of the layers."""
    deployment = built(None, **engine)
    assert len(deployment.replicas[0].placed_stages) == engine.get("pipeline_parallel_size", 1)
    assert simulate(deployment).summary["requests"]["completed"] == 10


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"layers": {"hosst": 8}}, r"cluster\.a\.placement\.layers.*did you mean 'host'"),
        ({"layers": {"host": 33}}, r"given 33 layers: 32 of 32 are left"),
        ({"layers": {"host": "0-40"}}, r"layer 32 does not exist: the model has layers 0 to 31"),
        ({"layers": {"host": "3-1"}}, r"ranges like 0-3,7"),
        ({"layers": {"host": True}}, r"placement\.layers\.host"),
        ({"operators": {"q_proj": "host"}}, r"operators\.q_proj.*did you mean 'qkv_proj'"),
        ({"operators": {"experts": "host"}}, r"has no 'experts'"),
        ({"experts": {"device": "host"}}, r"placement\.experts.*has no experts"),
        ({"experts": {"device": "disk"}}, r"placement\.experts\.device.*Allowed: host"),
        ({"kv": {"device": "host", "share": 1.0}}, r"kv\.share"),
        ({"kv": {"device": "host", "share": 0.5}, "access": "direct"}, r"needs access: copy"),
        ({"at_start": True, "access": "direct"}, r"at_start issues copies"),
        ({"kind": "auto", "layers": {"host": 1}}, r"leave them out"),
        ({"layer": {"host": 1}}, r"did you mean 'layers'"),
    ],
)
def test_what_is_wrong_is_said_by_its_path(placement: dict[str, Any], message: str) -> None:
    """Devices, layers, operators and choices that contradict each other."""
    with pytest.raises(InputError, match=message):
        built({"placement": placement})


def test_a_device_that_is_too_small_is_said_with_both_figures() -> None:
    """What is placed there, of all ranks, and what it holds."""
    hardware = {"device": "L4", "memory": [{"name": "host", "capacity_gb": 2, "bandwidth_gb_per_s": 25}]}
    with pytest.raises(InputError, match=r"'host' are 3\.49 GB .* holds 2\.00 GB"):
        built({"hardware": hardware})
    with pytest.raises(InputError, match=r"'host' are 3\.49 GB .* holds 2\.00 GB"):
        built({"hardware": hardware}, tensor_parallel_size=2)


def test_a_name_stands_once() -> None:
    """Two devices of one name, or of the accelerator's."""
    twice = [{"name": "host", "capacity_gb": 2, "bandwidth_gb_per_s": 25}] * 2
    with pytest.raises(InputError, match="'host' is taken"):
        built({"hardware": {"device": "L4", "memory": twice}})


def test_no_memory_device_at_all_says_where_to_name_one() -> None:
    """Under hardware.memory, with its figures."""
    with pytest.raises(InputError, match=r"hardware\.memory names none; give it there"):
        built({"hardware": {"device": "L4"}})


def test_a_step_model_without_layers_is_refused() -> None:
    """Affine steps have none to load."""
    with pytest.raises(InputError, match=r"cluster\.a\.step\.model.*tells its parts"):
        built({"step": {"model": "affine"}})


def test_layers_by_number_are_the_last_of_equal_groups() -> None:
    """As vLLM's offload_group_size deals them; others by name."""
    assert layers_named(4, 16, {}, "") == [3, 7, 11, 15]
    assert layers_named(0, 16, {}, "") == []
    assert layers_named("0-2,9", 16, {}, "") == [0, 1, 2, 9]
    assert layers_named(2, 8, {3: "a", 7: "a"}, "") == [2, 6]


def test_auto_leaves_everything_where_it_fits() -> None:
    """And says so."""
    deployment = built({"placement": "auto"}, max_model_len=2048)
    fits = built({"placement": {"kind": "auto", "decodes": 4}})
    assert fits.replicas[0].pool.placement is None
    assert "nothing leaves" in fits.notices[-1]
    assert deployment.replicas[0].pool.placement is not None


def test_auto_moves_as_little_as_will_do() -> None:
    """One layer less would not hold the KV asked for; the plan and its gain are told, also in the resolved scenario."""
    deployment = built({"placement": {"kind": "auto", "decodes": 64}})
    chosen = deployment.replicas[0].pool.placement
    assert chosen is not None
    assert chosen.kind == "given"
    assert deployment.instances[0].settings.num_blocks * 16 >= 64 * 1024
    assert any("placement auto" in notice and "next best" in notice for notice in resolved_facts(deployment)["notices"])
    if chosen.layers:
        ((device, count),) = chosen.layers.items()
        assert isinstance(count, int)
        assert kv_blocks({"layers": {device: count - 1}}) * 16 < 64 * 1024


def test_auto_is_the_best_of_what_it_tries() -> None:
    """No number of layers, and no share of KV, that fits has a shorter step."""
    deployment = built({"placement": {"kind": "auto", "decodes": 64}})
    shape = StepShape(64, 64 * 1024, (), 1024, 1024)

    def step_ns(placed: Deployment) -> int:
        model = placed.instances[0].step_model
        assert model is not None
        return model.duration_ns(shape)

    best = step_ns(deployment)
    for other in ({"layers": {"host": 12}}, {"layers": {"host": 32}}, {"kv": {"device": "host", "share": 0.5}}):
        placed = built({"placement": other})
        if placed.instances[0].settings.num_blocks * 16 >= 64 * 1024:
            assert best <= step_ns(placed)


def test_auto_spreads_layers_over_devices_that_load_at_once() -> None:
    """Two devices of unlike bandwidth: both are used, the faster for more, and a step is shorter than with either."""
    memory = [
        {"name": "host", "capacity_gb": 64, "bandwidth_gb_per_s": 50},
        {"name": "cxl", "capacity_gb": 64, "bandwidth_gb_per_s": 25},
    ]
    data = {"hardware": {"device": "L4", "memory": memory}, "model": "Qwen/Qwen3-14B"}
    placement = {"kind": "auto", "decodes": 8, "prefetch": 4}
    chosen = built(data | {"placement": placement}).replicas[0].pool.placement
    assert chosen is not None
    counts = {name: len(str(which).split(",")) for name, which in chosen.layers.items()}
    assert counts["host"] > counts["cxl"] > 0


def test_auto_that_cannot_says_both_figures() -> None:
    """What is needed, what there is, and what was tried."""
    with pytest.raises(InputError, match=r"no placement of .* fits: weights are 15\.0 GiB.*memory devices 59\.6 GiB"):
        built({"placement": {"kind": "auto", "decodes": 100_000}})
    with pytest.raises(InputError, match="needs memory devices"):
        built({"placement": "auto", "hardware": {"device": "L4"}})
    with pytest.raises(InputError, match="num_gpu_blocks_override"):
        built({"placement": "auto"}, num_gpu_blocks_override=100)


def test_a_cold_instance_serves_when_its_model_is_there() -> None:
    """Bytes over storage, or over the accelerator's link; the first token comes no sooner."""
    weights = 16_060_522_496
    cold = built({"placement": None, "cold_start": {"storage_gb_per_s": 2, "other_s": 3}})
    assert cold.instances[0].settings.ready_ns == pytest.approx(weights / 2 + 3e9, abs=2)
    linked = built({"placement": None, "cold_start": {"storage_gb_per_s": 100, "link_gb_per_s": 4}})
    assert linked.instances[0].settings.ready_ns == pytest.approx(weights / 4, abs=2)
    shared = {"storage_gb_per_s": 100, "link_gb_per_s": 4}
    two = built({"placement": None, "cold_start": shared}, tensor_parallel_size=2)
    assert two.instances[0].settings.ready_ns == pytest.approx(weights / 8, rel=0.01)
    first = min(simulate(cold).requests["first_token_s"])
    assert first > weights / 2e9 + 3


def test_some_replicas_may_be_cold() -> None:
    """The last ones; round robin waits for them all the same."""
    pool = {"replicas": 3, "placement": None, "cold_start": {"storage_gb_per_s": 2, "replicas": 1}}
    assert [spec.settings.ready_ns > 0 for spec in built(pool).instances] == [False, False, True]
    with pytest.raises(InputError, match=r"cold_start\.replicas.*the pool has 3"):
        built(pool | {"cold_start": {"storage_gb_per_s": 2, "replicas": 4}})
