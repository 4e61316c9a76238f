"""What the scenario's schema accepts, refuses, and says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from servetwin.core.errors import InputError
from servetwin.scenario.load import load_scenario
from servetwin.scenario.schema import EngineOptions, Scenario

ISSUE = """\
seed: 1
model: meta-llama/Llama-3.1-8B
cluster:
  - name: chat
    replicas: 2
    hardware: {device: H100-SXM, count: 1}
    engine: {kind: vllm, version: "0.19", max_num_seqs: 256, max_num_batched_tokens: 2048, block_size: 16,
             gpu_memory_utilization: 0.9, enable_prefix_caching: true, tensor_parallel_size: 1}
    step: {model: roofline}
router: {policy: least_outstanding, staleness_s: 0.0}
workload: {kind: synthetic, requests: 1000, arrivals: {kind: poisson, rate_per_s: 8},
           prompt_tokens: {kind: lognormal, mean: 220, sigma: 1.0}, output_tokens: 200}
slo: {ttft_s: 0.5, tpot_s: 0.05}
output: {interval_s: 1.0, warmup_s: 0.0}
"""


def scenario_file(folder: Path, *changes: tuple[str, str]) -> Path:
    """Write the scenario of the documentation, with some of its text replaced, and return its path."""
    text = ISSUE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def error_of(path: Path) -> str:
    """Return what is said about a scenario, without the path of its folder."""
    with pytest.raises(InputError) as caught:
        load_scenario(path)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_the_documented_scenario_is_read(tmp_path: Path) -> None:
    """The scenario of the documentation is valid, and its values arrive."""
    loaded = load_scenario(scenario_file(tmp_path))
    pool = loaded.scenario.cluster[0]
    assert (loaded.name, loaded.folder, pool.name, pool.replicas) == ("s", tmp_path, "chat", 2)
    assert pool.hardware is not None
    assert pool.hardware.device == "H100-SXM"
    assert loaded.scenario.slo.limits == {"ttft_s": 0.5, "tpot_s": 0.05}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 1", "sed: 1", "s.yaml:1: sed: unknown key 'sed'; did you mean 'seed'? Allowed: carbon, cluster, "),
        ("count: 1", "cout: 1", "s.yaml:6: cluster.chat.hardware.cout: unknown key 'cout'; did you mean 'count'?"),
        ("replicas: 2", "replicas: -2", "s.yaml:5: cluster.chat.replicas: given -2: should be at least 1"),
        ("replicas: 2", "replicas: 99999999", "replicas: given 99999999: should be at most 1,000,000"),
        ("replicas: 2", "replicas: many", "s.yaml:5: cluster.chat.replicas: given 'many': should be a whole number"),
        ("replicas: 2", "replicas: true", "s.yaml:5: cluster.chat.replicas: given true: should be a whole number"),
        ("rate_per_s: 8", "rate_per_s: .nan", "arrivals.rate_per_s: given nan: should be a finite number"),
        ("interval_s: 1.0", "interval_s: .inf", "s.yaml:14: output.interval_s: given inf: should be a finite number"),
        ("interval_s: 1.0", "interval_s: 0", "s.yaml:14: output.interval_s: given 0: should be at least"),
        ("kind: poisson", "kind: poison", "did you mean 'poisson'?"),
        ("kind: synthetic", "kind: synthetik", "did you mean 'synthetic'?"),
        ("sigma: 1.0", "sigm: 1.0", "s.yaml:12: workload.prompt_tokens.sigm: unknown key 'sigm'; did you mean"),
        ("  - name: chat\n    replicas", "  - replicas", "s.yaml:4: cluster.0.name: is missing"),
        ("name: chat", "name: a.b", "s.yaml:4: cluster.0.name: given 'a.b': "),
        ('version: "0.19"', "version: 0.10", "cluster.chat.engine.version: given '0.1': should be '0.11'"),
        ("router: {policy: least_outstanding", "router: {policy: 3", "router.policy: given 3: should be the name of a"),
        ("slo: {ttft_s: 0.5", "slo: {ttft: 0.5", "s.yaml:13: slo.ttft: unknown key 'ttft'; did you mean 'ttft_s'?"),
        ("count: 1", "count: 2", "s.yaml:4: cluster.chat: hardware.count (2) must equal the product of"),
    ],
)  # fmt: skip
def test_errors_name_the_place_what_was_given_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    """A mistake is answered with file and line, the key's path, what was given and what is allowed."""
    assert said in error_of(scenario_file(tmp_path, (old, new)))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Several mistakes give one error with a line for each."""
    said = error_of(scenario_file(tmp_path, ("replicas: 2", "replicas: 0"), ("staleness_s: 0.0", "staleness_s: -1")))
    assert [line.split(": ")[1] for line in said.splitlines()] == ["cluster.chat.replicas", "router.staleness_s"]


@pytest.mark.parametrize("given", [0, "unlimited"])
def test_unlimited_sequences_are_the_token_budget(given: object) -> None:
    """``max_num_seqs`` 0 or "unlimited" means ``max_num_batched_tokens``."""
    engine = EngineOptions.model_validate({"max_num_seqs": given, "max_num_batched_tokens": 100})
    assert engine.num_sequences == 100


def engine_error(**options: object) -> str:
    """Return what is said about an engine's options."""
    data = {"cluster": [{"name": "a", "engine": options}], "workload": {"kind": "csv", "path": "x"}}
    with pytest.raises(InputError) as caught:
        load_scenario(data)
    return str(caught.value)


def test_the_budget_holds_all_sequences() -> None:
    """As in vLLM, ``max_num_batched_tokens`` must be at least ``max_num_seqs``."""
    assert engine_error(max_num_seqs=65, max_num_batched_tokens=64) == (
        "cluster.a.engine: max_num_batched_tokens (64) must be at least max_num_seqs (65), as in vLLM"
    )


@pytest.mark.parametrize("options", [{"enable_chunked_prefill": False}, {"kind": "orca"}, {"kind": "static"}])
def test_whole_prompts_fit_the_budget(options: dict[str, object]) -> None:
    """Where prompts are never split, a longer ``max_model_len`` than the budget is refused."""
    said = engine_error(max_model_len=4096, max_num_batched_tokens=2048, **options)
    assert "max_model_len (4096) must be at most max_num_batched_tokens (2048)" in said


@pytest.mark.parametrize(
    "content", ["", "# nothing\n", "[1, 2]\n", "text\n", "3\n", "cluster: []\nworkload: {kind: csv, path: x}\n"]
)
def test_what_is_no_scenario(tmp_path: Path, content: str) -> None:
    """An empty file, one that is no mapping, and a cluster without pools are refused."""
    path = tmp_path / "s.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"s\.yaml"):
        load_scenario(path)


def test_two_pools_of_one_name(small: dict[str, Any]) -> None:
    """Names of pools are unique."""
    small["cluster"][1]["name"] = "chat"
    with pytest.raises(InputError, match="two pools have the name 'chat'"):
        load_scenario(small)


def test_shorthands(small: dict[str, Any]) -> None:
    """A bare name stands for a router's policy and for a step model."""
    small["router"] = "random"
    small["cluster"][1]["step"] = "affine"
    scenario = load_scenario(small).scenario
    assert (scenario.router.policy, scenario.cluster[1].step.model) == ("random", "affine")


def test_a_scenario_never_changes(small: dict[str, Any]) -> None:
    """A scenario is frozen, and reading it leaves the given data as it was."""
    scenario = load_scenario(small).scenario
    with pytest.raises(ValueError, match="frozen"):
        scenario.seed = 5  # type: ignore[misc]
    assert small["seed"] == 3


def test_a_scenario_object_is_a_source(small: dict[str, Any]) -> None:
    """A `Scenario` can be loaded again, with edits; what it leaves out keeps its default."""
    first = Scenario.model_validate(small)
    again = load_scenario(first, edits={"cluster.chat.replicas": 5}).scenario
    assert again.cluster[0].replicas == 5
    assert load_scenario(first).scenario == first


H100_BOX = {"preset": "hgx_h100", "nodes": 2}


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"engine": {"eplb_config": {"num_redundant_experts": 8}}}, "needs enable_eplb: true"),
        ({"hardware": {"link": {"latency_ns": 1.0}, "topology": H100_BOX}}, "either link or topology"),
        ({"hardware": {"topology": {**H100_BOX, "oversubscription": 2.0}}}, "needs network: fat_tree, not rail"),
        ({"hardware": {"topology": {"levels": [{"size": 8, "link": "nvlink4"}], "network": "switch"}}}, "add a level"),
        (
            {"hardware": {"topology": {"levels": [{"size": 8, "link": "nvlink4", "leaf": 2}]}}},
            "leaf belongs to kind: fat_t",
        ),
    ],
)
def test_options_of_parallelism_that_would_do_nothing(pool: dict[str, Any], said: str) -> None:
    """An option that only another one gives a meaning is refused without that one."""
    hardware = {"device": "H100-SXM", **pool.get("hardware", {})}
    pools = [{"name": "a", "engine": pool.get("engine", {}), "hardware": hardware}]
    with pytest.raises(InputError, match=said):
        load_scenario({"cluster": pools, "workload": {"kind": "csv", "path": "x"}})
