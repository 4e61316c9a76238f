"""Pools with roles in a scenario: what arrives in the simulation, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import servetwin
from servetwin.cluster.base import Disaggregation
from servetwin.cluster.kv_transfers import KvTransfers
from servetwin.core.errors import InputError
from servetwin.scenario.build import build
from servetwin.scenario.disaggregation import CONNECTORS
from servetwin.scenario.load import load_scenario
from servetwin.scenario.resolved import resolved_facts

MODEL = "meta-llama/Llama-3.1-8B"


def apart(
    disaggregation: dict[str, Any] | None = None, prefill: dict[str, Any] | None = None, **decode: Any
) -> dict[str, Any]:
    """Return a scenario with a prefill and a decode pool."""
    usual = {"hardware": {"device": "H100-SXM"}}
    data: dict[str, Any] = {
        "model": MODEL,
        "cluster": [
            {"name": "pre", "role": "prefill", **usual, **(prefill or {})},
            {"name": "dec", "role": "decode", **usual, **decode},
        ],
        "workload": {
            "kind": "synthetic",
            "requests": 5,
            "arrivals": {"kind": "constant", "rate_per_s": 1},
            "prompt_tokens": 1000,
            "output_tokens": 4,
        },
    }
    return data | ({"disaggregation": disaggregation} if disaggregation is not None else {})


def how(data: dict[str, Any]) -> Disaggregation:
    """Return how requests get from prefill to decode."""
    found = build(load_scenario(data)).disaggregation()
    assert found is not None
    return found


def mean_part(data: dict[str, Any], name: str) -> float:
    """Return the mean of a part of the end-to-end time, in seconds."""
    return float(servetwin.simulate(data).summary["breakdown_s"][name])


@pytest.mark.parametrize("connector", ["nixl", "mooncake"])
def test_the_connector_decides_what_is_not_said(connector: str) -> None:
    """First token and hand-off are its own, until the scenario says otherwise."""
    found, defaults = how(apart({"connector": connector})), CONNECTORS[connector]
    assert (found.first_token, found.handoff_ns) == (defaults.first_token, defaults.handoff_us * 1000)
    said = how(apart({"connector": connector, "first_token": "decode", "handoff_us": 7}))
    assert (said.first_token, said.handoff_ns) == ("decode", 7000)


def test_a_transfer_takes_what_its_parts_say() -> None:
    """Hand-off, latency, bytes over bandwidth, and a cost per message; without them nothing is left but the bytes."""
    kv_bytes = 999 * 131072  # the last token's KV is computed on the decode side
    bare = {"handoff_us": 0, "message_us": 0, "port": {"bandwidth_gb_per_s": 1, "latency_us": 0}}
    assert mean_part(apart(bare), "transfer_s") == pytest.approx(kv_bytes / 1e9)
    assert mean_part(apart(bare | {"handoff_us": 500}), "transfer_s") == pytest.approx(kv_bytes / 1e9 + 500e-6)
    messages = 62 * 64  # blocks beyond the first x layers x (keys, values)
    assert mean_part(apart(bare | {"message_us": 1}), "transfer_s") == pytest.approx(kv_bytes / 1e9 + messages * 1e-6)
    capped = bare | {"port": {"bandwidth_gb_per_s": 1, "latency_us": 0, "transfer_gb_per_s": 0.5}}
    assert mean_part(apart(capped), "transfer_s") == pytest.approx(kv_bytes / 0.5e9)


def test_layer_by_layer_hides_what_the_prefill_leaves_time_for() -> None:
    """At a high bandwidth only the last of 32 layers is left."""
    bare = {"handoff_us": 0, "message_us": 0, "port": {"bandwidth_gb_per_s": 50, "latency_us": 0}}
    whole, layer = (mean_part(apart(bare | {"granularity": name}), "transfer_s") for name in ("prompt", "layer"))
    assert layer == pytest.approx(whole / 32, rel=1e-3)


@pytest.mark.parametrize(("degrees", "factor"), [((1, 1), 1), ((8, 8), 1), ((4, 8), 1), ((8, 16), 2), ((16, 8), 2)])
def test_resharding_sends_replicated_heads(degrees: tuple[int, int], factor: int) -> None:
    """Eight KV heads: from 16 ranks on each is kept twice, and sent twice; ports are one per accelerator."""
    engines = [{"tensor_parallel_size": degree} for degree in degrees]
    data = apart({}, {"engine": engines[0]}, engine=engines[1])
    transfers = how(data).transfers
    assert isinstance(transfers, KvTransfers)
    transfers.start(0, 0, 1, 16)
    transfers.advance(10**9)
    moved = {link.name: float(link.moved_bytes.sum()) for link in transfers.link_records()}
    assert moved["pre-0->fabric"] == moved["fabric->dec-0"] == 16 * 131072 * factor
    bandwidth = {link.source: link.bandwidth_bytes_per_s for link in transfers.network.graph.links}
    assert (bandwidth["pre-0"], bandwidth["dec-0"]) == tuple(degree * 50e9 for degree in degrees)


def test_short_prompts_stay() -> None:
    """Of prompts no longer than the limit nothing is handed over."""
    requests = servetwin.simulate(apart({"local_prompt_tokens": 1000})).requests
    assert set(requests["prefill_instance"]) == {"dec-0"}
    assert (requests["transfer_s"] == 0).all()


def test_the_connectors_defaults_stand_among_the_resolved_facts() -> None:
    """A reader of a run finds what was computed with."""
    facts = resolved_facts(build(load_scenario(apart())))["disaggregation"]
    nixl = CONNECTORS["nixl"]
    assert (facts["first_token"], facts["handoff_us"]) == (nixl.first_token, nixl.handoff_us)
    assert (facts["messages_per_block"], facts["kv_bytes_per_token"]) == (64, {"pre": 131072, "dec": 131072})
    assert "message_us" not in resolved_facts(build(load_scenario(apart({"connector": "instant"}))))["disaggregation"]


def test_the_links_record_has_the_interval_of_the_output() -> None:
    """So that no interval of the time series has a part of another one."""
    data = apart({}) | {"output": {"interval_s": 0.25}}
    transfers = how(data).transfers
    assert isinstance(transfers, KvTransfers)
    assert {link.interval_ns for link in transfers.link_records()} == {250_000_000}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (apart(role="prefill"), ["pool pre", "no pool has the role decode or both"]),
        (apart(None, {"role": "decode"}), ["pool pre", "no pool has the role prefill or both"]),
        (apart(model="Qwen/Qwen3-8B"), ["pool pre", MODEL, "pool dec", "Qwen/Qwen3-8B"]),
        (apart(engine={"kv_cache_dtype": "fp8"}), ["pool pre", "pool dec", "fp8", "kv_cache_dtype"]),
        (apart({"connector": "instant", "message_us": 1}), ["instant", "disaggregation.message_us"]),
        (apart({"connector": "instant", "port": {"latency_us": 1}}), ["instant", "disaggregation.port"]),
        (apart({"port": {"bandwidth_gb_per_s": 1e-12}}), ["pre-0->fabric", "bandwidth"]),
        (apart({"port": {"bandwidth_gb_per_s": 0}}), ["bandwidth_gb_per_s"]),
        (apart({"connector": "nickel"}), ["nixl", "mooncake"]),
        (apart({}, {"role": "both"}, role="both"), ["role: prefill"]),
        (apart(engine={"async_scheduling": True}), ["dec-0", "async_scheduling"]),
    ],
)
def test_what_cannot_be_is_refused_with_both_ends(data: dict[str, Any], words: list[str]) -> None:
    """Roles without a partner, models or formats that differ, links that cannot be, keys without effect."""
    with pytest.raises(InputError) as caught:
        build(load_scenario(data))
    for word in words:
        assert word in str(caught.value)
