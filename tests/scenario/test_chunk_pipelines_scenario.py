"""Chunked prefill pipelines in a scenario: stages on different nodes, dynamic chunks, KV that goes on to decode."""

from __future__ import annotations

from typing import Any

import pytest

import servetwin
from servetwin.core.errors import InputError
from servetwin.core.units import GB
from servetwin.scenario.build import build
from servetwin.scenario.load import load_scenario
from servetwin.scenario.result import Result

CHUNKS, CHUNK_TOKENS = 16, 2048


def deployment(stages: int, disaggregation: dict[str, Any] | None = None, **engine: Any) -> dict[str, Any]:
    """Return a scenario in which one long prompt goes through so many nodes of eight H100."""
    limits = {"max_num_batched_tokens": CHUNK_TOKENS, "max_num_seqs": 8, "enable_prefix_caching": False}
    return {
        "model": "meta-llama/Llama-3.1-70B",
        "cluster": [
            {
                "name": "pre",
                "role": "prefill",
                "hardware": {"device": "H100-SXM", "topology": {"preset": "hgx_h100", "nodes": stages}},
                "engine": {"tensor_parallel_size": 8, "pipeline_parallel_size": stages} | limits | engine,
            },
            {
                "name": "dec",
                "role": "decode",
                "hardware": {"device": "H100-SXM"},
                "engine": {"tensor_parallel_size": 8},
            },
        ],
        "disaggregation": {"connector": "mooncake"} | (disaggregation or {}),
        "workload": {
            "kind": "synthetic",
            "requests": 1,
            "arrivals": {"kind": "constant", "rate_per_s": 1},
            "prompt_tokens": CHUNKS * CHUNK_TOKENS,
            "output_tokens": 2,
        },
    }


def first_token_s(result: Result) -> float:
    """Return when the only prompt's first token came."""
    return result.outcome.requests.first_token_ns[0] / 1e9


def test_first_token_comes_sooner_with_more_nodes_nearly_as_the_closed_form_says() -> None:
    """(m + p - 1) / (m p) of one node's time, and at most an eighth more: later chunks, hosts and links."""
    alone = first_token_s(servetwin.simulate(deployment(1)))
    for stages in (2, 4, 8):
        ideal = (CHUNKS + stages - 1) / (CHUNKS * stages)
        part = first_token_s(servetwin.simulate(deployment(stages))) / alone
        assert ideal <= part <= ideal * 1.125


def test_a_narrow_network_between_the_nodes_costs_the_time_of_its_bytes() -> None:
    """Hidden states and residual of a chunk, each accelerator its part: at least once per border.

    At most once per border and round of p chunks. Later chunks take longer, and the way hides behind their time.
    """

    def over(gb_per_s: float) -> dict[str, Any]:
        data = deployment(4)
        node = {"size": 8, "link": "nvlink4"}
        network = {"size": 4, "link": "infiniband_ndr", "kind": "rail", "bandwidth_gb_per_s": gb_per_s}
        data["cluster"][0]["hardware"]["topology"] = {"levels": [node, network]}
        return data

    fast, slow = (first_token_s(servetwin.simulate(over(rate))) for rate in (40.0, 10.0))
    sent_bytes = 2 * CHUNK_TOKENS * 8192 * 2 / 8
    once_s = 3 * sent_bytes * (1 / (10 * GB) - 1 / (40 * GB))
    assert once_s <= slow - fast <= CHUNKS / 4 * once_s


def test_dynamic_chunks_beat_the_best_chunks_of_one_size_where_the_context_is_long() -> None:
    """128k tokens over eight nodes: shrinking chunks gain on each of six fixed sizes, and their sizes fall."""

    def run(**engine: Any) -> Result:
        data = deployment(8, **engine)
        data["workload"]["prompt_tokens"] = 130_000
        return servetwin.simulate(data)

    fixed = [first_token_s(run(max_num_batched_tokens=tokens)) for tokens in (1024, 1536, 2048, 3072, 4096, 6144)]
    dynamic = run(max_num_batched_tokens=4096, enable_dynamic_chunking=True, dynamic_chunking_smooth_factor=1)
    assert first_token_s(dynamic) < min(fixed)
    sizes = list(dynamic.outcome.logs[0].tokens)[:-1]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 4096 > sizes[-1] >= 1024


def test_the_last_stage_sends_its_last_layer_by_itself() -> None:
    """Layer by layer, what is left after a pipeline of 4 stages is a layer of 20: the other stages' ports are idle."""
    bare = {"handoff_us": 0, "message_us": 0, "port": {"bandwidth_gb_per_s": 400, "latency_us": 0}}
    for stages, layers in ((1, 80), (4, 20)):
        whole, layer = (
            servetwin.simulate(deployment(stages, bare | {"granularity": name})).summary["breakdown_s"]["transfer_s"]
            for name in ("prompt", "layer")
        )
        assert layer == pytest.approx(whole / layers, rel=1e-3)


def test_more_replicas_of_a_pipeline_share_the_prompts() -> None:
    """Two groups of two nodes serve two prompts in the time of one."""
    data = deployment(2)
    data["cluster"][0]["replicas"] = 2
    data["router"] = "round_robin"
    data["workload"] |= {"requests": 2, "arrivals": {"kind": "constant", "rate_per_s": 1e6}}
    requests = servetwin.simulate(data).outcome.requests
    assert list(requests.prefill_instance) == [0, 1]
    first, second = (requests.handed_over_ns[row] - requests.arrival_ns[row] for row in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"pipeline_parallel_size": 1, "enable_dynamic_chunking": True}, "pipeline_parallel_size above 1"),
        ({"dynamic_chunking_smooth_factor": 0.5}, "needs enable_dynamic_chunking: true"),
        ({"enable_dynamic_chunking": True, "enable_chunked_prefill": False}, "prompts that are split"),
        ({"enable_dynamic_chunking": True, "dynamic_chunking_smooth_factor": 2}, "dynamic_chunking_smooth_factor"),
    ],
)
def test_dynamic_chunking_is_refused_where_it_would_do_nothing(engine: dict[str, Any], message: str) -> None:
    """Without stages, without chunks, or with a factor of nothing."""
    with pytest.raises(InputError, match=message):
        build(load_scenario(deployment(2, **engine)))
