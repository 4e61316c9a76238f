"""Ports that are the accelerators' own links: KV, collectives and loads of weights slow each other down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_disaggregation_options import apart, how, mean_part

import servetwin
from servetwin.cluster.kv_transfers import KvTransfers
from servetwin.core.errors import InputError
from servetwin.core.units import GB
from servetwin.network.base import Link
from servetwin.network.collectives import Ring
from servetwin.scenario.build import build
from servetwin.scenario.load import load_scenario
from servetwin.step.base import StepShape

PCIE_GB_PER_S = 20.0
LOAD = {
    "kind": "synthetic",
    "requests": 60,
    "arrivals": {"kind": "poisson", "rate_per_s": 6},
    "prompt_tokens": 3000,
    "output_tokens": 30,
}


def on_one_link(shared: list[str], **changes: Any) -> dict[str, Any]:
    """Return two pools of L40S, two accelerators a replica, whose link KV shares or has another one like it."""
    link = {"bandwidth_gb_per_s": PCIE_GB_PER_S, "latency_ns": 5000}
    pool = {"hardware": {"device": "L40S", "link": link}, "engine": {"tensor_parallel_size": 2}}
    port: dict[str, Any] = {"bandwidth_gb_per_s": PCIE_GB_PER_S, "latency_us": 10}
    if shared:
        port["shared_with"] = shared
    options = {"connector": "mooncake", "port": port}
    return apart(options, pool, **pool) | {"workload": LOAD} | changes


def test_transfers_and_steps_take_longer_on_one_link() -> None:
    """Prompts beside which KV travels, and KV beside which all-reduces go."""
    alone, together = on_one_link([]), on_one_link(["collectives"])
    assert mean_part(together, "transfer_s") > 1.02 * mean_part(alone, "transfer_s")
    assert mean_part(together, "prefill_s") > 1.002 * mean_part(alone, "prefill_s")


def test_nothing_changes_where_nothing_crosses() -> None:
    """One request at a time: no step is under way while its KV travels, but the next."""
    lonely = {"workload": LOAD | {"requests": 5, "arrivals": {"kind": "constant", "rate_per_s": 0.5}}}
    alone, together = (servetwin.simulate(on_one_link(shared, **lonely)) for shared in ([], ["collectives"]))
    assert alone.requests.keys() == together.requests.keys()
    for name, column in alone.requests.items():
        np.testing.assert_array_equal(column, together.requests[name])


def test_a_run_says_that_use_of_links_leaves_out_what_steps_send() -> None:
    """By pool, and only where something is shared."""
    named = [
        [notice for notice in servetwin.simulate(data).summary["notices"] if notice.startswith("ports of")]
        for data in (on_one_link([]), on_one_link(["collectives"]), apart(WEIGHTS, offloaded()))
    ]
    assert [len(notices) for notices in named] == [0, 1, 1]
    assert "pre, dec:" in named[1][0]
    assert "of pre:" in named[2][0]


def test_the_port_is_the_link_unless_it_is_given() -> None:
    """Two accelerators have the bandwidth of two links."""
    data = on_one_link(["collectives"])
    del data["disaggregation"]["port"]["bandwidth_gb_per_s"]
    transfers = how(data).transfers
    assert isinstance(transfers, KvTransfers)
    assert {link.bandwidth_bytes_per_s for link in transfers.link_records()} == {2 * PCIE_GB_PER_S * GB}


def test_only_what_crosses_the_outermost_level_counts() -> None:
    """Eight accelerators of one machine reduce over NVLink: KV over the network does not meet them."""
    inside = {"device": "H100-SXM", "topology": {"preset": "hgx_h100", "nodes": 2, "network": "rail"}}
    across = {"hardware": inside, "engine": {"tensor_parallel_size": 16}}
    within = {"hardware": inside, "engine": {"tensor_parallel_size": 8}}
    model = {"model": "meta-llama/Llama-3.1-70B"}
    options = {"port": {"shared_with": ["collectives"]}}
    deployment = build(load_scenario(apart(options, across, **within) | model))
    prefill, decode = deployment.shared_links
    assert prefill is not None
    assert decode is None


def test_loads_of_weights_share_links() -> None:
    """With half of the weights in host memory a decode step waits for them, and longer while KV comes."""
    memory = [{"name": "host", "capacity_gb": 200, "bandwidth_gb_per_s": 50}]
    offloaded = {"hardware": {"device": "H100-SXM", "memory": memory}, "placement": {"layers": {"host": 16}}}
    options = {"connector": "mooncake", "port": {"bandwidth_gb_per_s": 50}}
    alone = apart(options, **offloaded) | {"workload": LOAD}
    together = apart(
        {"port": {"bandwidth_gb_per_s": 50, "shared_with": ["weights"]}, "connector": "mooncake"}, **offloaded
    )
    together |= {"workload": LOAD}
    assert mean_part(together, "transfer_s") > 1.2 * mean_part(alone, "transfer_s")
    assert mean_part(together, "decode_s") > mean_part(alone, "decode_s")


def offloaded(gb_per_s: float = 50, **engine: Any) -> dict[str, Any]:
    """Return a pool with half of its layers in host memory, which is as fast as the ports."""
    memory = [{"name": "host", "capacity_gb": 400, "bandwidth_gb_per_s": gb_per_s}]
    hardware = {"device": "H100-SXM", "memory": memory}
    return {"hardware": hardware, "placement": {"layers": {"host": 16}}, "engine": engine}


WEIGHTS = {"connector": "mooncake", "port": {"bandwidth_gb_per_s": 50, "shared_with": ["weights"]}}


def test_idle_instances_are_polled_while_a_step_lasts_longer_than_planned() -> None:
    """A dozen prompts' KV makes a decode step several times as long as its operators, which are looked at."""
    many = {
        "requests": 60,
        "arrivals": {"kind": "poisson", "rate_per_s": 3},
        "prompt_tokens": 20_000,
        "output_tokens": 4,
    }
    slow = {"connector": "mooncake", "port": {"bandwidth_gb_per_s": 5, "shared_with": ["weights"]}}
    decode = offloaded(5, idle_poll_us=100) | {"replicas": 3}
    result = servetwin.simulate(apart(slow, {"replicas": 12}, **decode) | {"workload": LOAD | many})
    assert result.summary["requests"]["completed"] == 60


def test_loads_meet_only_kv_that_comes_in() -> None:
    """A prompt's KV leaves while weights come in: links carry both ways at once."""
    apart_from = WEIGHTS | {"port": {"bandwidth_gb_per_s": 50}}
    shared, own = (servetwin.simulate(apart(how, offloaded()) | {"workload": LOAD}) for how in (WEIGHTS, apart_from))
    assert shared.summary["breakdown_s"] == own.summary["breakdown_s"]


def test_memory_slower_than_the_port_leaves_the_rest_to_kv() -> None:
    """Loads at a fifth of the port's bandwidth go on at that rate beside a transfer; what KV loses is their bytes."""
    slow, options = offloaded(10), {"port": {"bandwidth_gb_per_s": 50}}
    shared, own = (servetwin.simulate(apart(how, **slow) | {"workload": LOAD}) for how in (WEIGHTS, WEIGHTS | options))
    assert shared.summary["breakdown_s"]["decode_s"] == pytest.approx(own.summary["breakdown_s"]["decode_s"], rel=0.01)
    times = [result.summary["breakdown_s"]["transfer_s"] for result in (shared, own)]
    assert times[1] < times[0] < 1.26 * times[1]


def test_a_fast_memory_that_holds_nothing_does_not_matter() -> None:
    """Only memory from which something comes is held against the port."""
    pool = offloaded()
    pool["hardware"]["memory"].append({"name": "cxl", "capacity_gb": 400, "bandwidth_gb_per_s": 500})
    assert build(load_scenario(apart(WEIGHTS, pool))).shared_links[0] is not None


def on_port_of_attention(tensor: int, model: str, **ffn: Any) -> int | None:
    """Return how long a step's bytes take on the ports of attention whose FFNs are elsewhere; None for nothing."""
    pool = {
        "hardware": {"device": "H100-SXM", "ffn": {"device": "H100-SXM", "count": 4, **ffn}},
        "engine": {"tensor_parallel_size": tensor, "data_parallel_size": 2 // tensor},
        "step": {"plan": {"kind": "attention_ffn"}},
    }
    options = {"connector": "mooncake", "port": {"shared_with": ["collectives"]}}
    data = apart(options, {"engine": {"tensor_parallel_size": 2}}, **pool) | {"model": model}
    found = build(load_scenario(data)).shared_links[1]
    return None if found is None else found.of([StepShape(8, 8000, (), 1000, 1000)] * (2 // tensor)).transfer_ns


def test_ffn_devices_have_links_of_their_own() -> None:
    """What they exchange does not cross attention's ports, from which KV goes, however slow their link is."""
    slow, fast = ({"bandwidth_gb_per_s": gb_per_s} for gb_per_s in (1, 450))
    of_slow, of_fast = (on_port_of_attention(2, "meta-llama/Llama-3.1-8B", link=link) for link in (slow, fast))
    assert of_slow is not None
    assert of_fast is not None
    assert 0 <= of_slow <= of_fast  # beside slow FFNs more of attention's own all-reduces is hidden
    assert of_fast > 0
    assert on_port_of_attention(1, "Qwen/Qwen3-30B-A3B") is None  # data-parallel attention exchanges nothing


def test_other_pools_may_have_several_batches_in_flight() -> None:
    """Nobody asks the steps of a pool that does not use the ports: a pipeline, or LLMServingSim's members."""
    members = {"engine": {"data_parallel_size": 2, "enable_expert_parallel": True}}
    model = {"model": "Qwen/Qwen3-30B-A3B", "workload": LOAD | {"requests": 10}}
    for decode in (members | {"step": {"plan": {"kind": "lss_waves"}}}, {"engine": {"pipeline_parallel_size": 2}}):
        result = servetwin.simulate(apart(WEIGHTS, offloaded(), **decode) | model)
        assert result.summary["requests"]["completed"] == 10


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            apart({"port": {"shared_with": ["collectives"]}}),
            ["no pool has steps", "several accelerators", "shared_with"],
        ),
        (
            apart(
                {"port": {"shared_with": ["collectives"], "bandwidth_gb_per_s": 50}}, engine={"tensor_parallel_size": 2}
            ),
            ["50 GB/s", "cluster.dec", "450 GB/s", "one link"],
        ),
        (
            apart(
                {"port": {"shared_with": ["collectives"]}},
                engine={"tensor_parallel_size": 2},
                step={"collective": {"kind": Ring(Link(4e11, 5000))}},
            ),
            ["Ring", "step.collective.kind", "shared_with"],
        ),
        (
            apart(
                {"port": {"shared_with": ["collectives"]}},
                engine={"tensor_parallel_size": 2},
                step={"model": "fixed", "step_ns": 1000},
            ),
            ["cluster.dec", "'fixed'", "knows nothing of the links"],
        ),
        (
            apart(
                {"port": {"shared_with": ["collectives"]}},
                engine={"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
            ),
            ["disaggregation.port.shared_with", "cluster.dec", "several batches in flight", "leave this out"],
        ),
        (
            apart(WEIGHTS, offloaded(data_parallel_size=2, enable_expert_parallel=True))
            | {"model": "Qwen/Qwen3-30B-A3B"},
            ["disaggregation.port.shared_with", "cluster.pre", "does not tell its loads", "leave this out"],
        ),
        (
            apart(WEIGHTS | {"port": {"bandwidth_gb_per_s": 40, "shared_with": ["weights"]}}, offloaded(50)),
            ["cluster.pre", "'host'", "50 GB/s", "40 GB/s", "per_rank_gb_per_s"],
        ),
        (apart({"port": {"shared_with": ["tiers"]}}), ["shared_with", "collectives", "weights"]),
    ],
)
def test_what_cannot_be_shared_is_refused(data: dict[str, Any], words: list[str]) -> None:
    """Pools without such traffic, a port that is another link, collectives or step models that know no link."""
    with pytest.raises(InputError) as caught:
        build(load_scenario(data))
    for word in words:
        assert word in str(caught.value)
