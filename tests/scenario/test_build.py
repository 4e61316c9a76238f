"""From a scenario to instances, memory and a router."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import servetwin
from servetwin.cluster.base import ClusterView, FrontEnd, RequestView
from servetwin.core.errors import InputError
from servetwin.engine.base import EngineSettings
from servetwin.hardware import load_device
from servetwin.memory.overheads import driver_bytes
from servetwin.scenario.build import Deployment, build
from servetwin.scenario.load import load_scenario
from servetwin.step.fixed import FixedLatency
from servetwin.step.roofline import DEFAULT_HOST_OVERHEAD, RooflineStepModel
from servetwin.workload.base import Workload

WORKLOAD = {
    "kind": "synthetic",
    "requests": 10,
    "arrivals": {"kind": "constant", "rate_per_s": 100},
    "prompt_tokens": 8,
    "output_tokens": 4,
}


def real(**pool: Any) -> dict[str, Any]:
    """Return a scenario with one pool of Llama-3.1-8B on an H100, with some of its keys replaced."""
    base = {"name": "chat", "hardware": {"device": "H100-SXM"}}
    return {"model": "meta-llama/Llama-3.1-8B", "cluster": [base | pool], "workload": WORKLOAD}


def built(data: dict[str, Any], **edits: Any) -> Deployment:
    """Build a scenario; underscores in the edits' names stand for dots."""
    return build(load_scenario(data, edits={path.replace("__", "."): value for path, value in edits.items()}))


def test_instances_are_replicas_of_pools(small: dict[str, Any]) -> None:
    """Instances are named by pool and number, in order, and replicas share their step model."""
    first, second, third = built(small).instances
    assert [spec.name for spec in (first, second, third)] == ["chat-0", "chat-1", "batch-0"]
    assert first.step_model is second.step_model
    assert first.step_model is not third.step_model


def test_every_engine_option_arrives() -> None:
    """What a scenario says of the engine is what the instance runs with."""
    engine = {
        "num_gpu_blocks_override": 77,
        "max_model_len": 300,
        "max_num_seqs": 5,
        "max_num_batched_tokens": 300,
        "block_size": 8,
        "enable_chunked_prefill": False,
        "long_prefill_token_threshold": 33,
        "scheduler_reserve_full_isl": False,
        "enable_prefix_caching": False,
        "idle_poll_us": 1000,
    }
    assert built(real(engine=engine)).instances[0].settings == EngineSettings(
        num_blocks=76,
        max_model_len=300,
        max_num_seqs=5,
        max_num_batched_tokens=300,
        block_size=8,
        enable_chunked_prefill=False,
        long_prefill_token_threshold=33,
        scheduler_reserve_full_isl=False,
        enable_prefix_caching=False,
        idle_poll_ns=1_000_000,
    )


def test_blocks_follow_from_memory() -> None:
    """Without an override, blocks fill the memory that weights and reserve leave; more utilisation, more blocks."""
    low, high = (built(real(engine={"gpu_memory_utilization": share})).instances[0] for share in (0.8, 0.9))
    assert low.settings.num_blocks < high.settings.num_blocks
    assert high.kv_bytes_per_block == 16 * 2 * 8 * 128 * 32 * 2
    assert high.weight_bytes == pytest.approx(2 * 8.03e9, rel=0.01)
    extra = (high.settings.num_blocks - low.settings.num_blocks) * high.kv_bytes_per_block
    cuda_bytes = 81559 * 2**20 - driver_bytes(load_device("H100"))
    assert extra == pytest.approx(0.1 * cuda_bytes, rel=0.001)


def test_tensor_parallelism_counts_all_ranks() -> None:
    """Bytes are those of all ranks: two ranks hold the same weights and blocks of the same size in all."""
    one, two = (built(real(engine={"tensor_parallel_size": size})).instances[0] for size in (1, 2))
    assert two.weight_bytes == pytest.approx(one.weight_bytes, rel=0.001)
    assert two.kv_bytes_per_block == one.kv_bytes_per_block
    assert two.settings.num_blocks > 2 * one.settings.num_blocks


def test_links_are_the_devices_or_as_given() -> None:
    """A given bandwidth or latency replaces the device's own, each by itself, and a slower link makes slower steps."""
    own = built(real(engine={"tensor_parallel_size": 2})).replicas[0].link
    given = (
        built(
            real(
                engine={"tensor_parallel_size": 2}, hardware={"device": "H100-SXM", "link": {"bandwidth_gb_per_s": 16}}
            )
        )
        .replicas[0]
        .link
    )
    assert own is not None
    assert given is not None
    assert (own.bandwidth_bytes_per_s, given.bandwidth_bytes_per_s) == (450e9, 16e9)
    assert own.latency_ns == given.latency_ns
    assert built(real()).replicas[0].link is None


@pytest.mark.parametrize(
    ("engine", "length"),
    [
        ({}, 131072),
        ({"max_model_len": 1000}, 1000),
        ({"enable_chunked_prefill": False}, 2048),
        ({"kind": "vllm_v0", "max_num_batched_tokens": 4096}, 4096),
    ],
)
def test_max_model_len(engine: dict[str, Any], length: int) -> None:
    """The model's context is the default; where prompts are not split the token budget bounds it."""
    assert built(real(engine=engine)).instances[0].settings.max_model_len == length


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"model": "meta-llama/Llama-3.1-70B"}, "does not fit on H100-SXM.*it fits from tensor_parallel_size 2 on"),
        ({"engine": {"max_model_len": 200_000}}, r"cluster\.chat\.engine\.max_model_len: given 200000"),
        ({"engine": {"tensor_parallel_size": 3}}, "tensor_parallel_size 3 does not divide"),
        ({"engine": {"kind": "vlm"}}, r"cluster\.chat\.engine\.kind: unknown scheduler 'vlm'; did you mean 'vllm'"),
        ({"engine": {"scheduling_policy": "lifo"}}, "unknown scheduling policy 'lifo'"),
        ({"hardware": {"device": "H100"}, "step": {"model": "rooflin"}}, "unknown step model 'rooflin'; did you mean"),
        ({"hardware": None}, r"cluster\.chat\.hardware: no device is named"),
        ({"step": {"model": "fixed", "host": {"per_step_us": 1}}}, "the step model 'fixed' has no host"),
        ({"step": {"model": "affine", "path": "x"}}, "the step model 'affine' has no path"),
        ({"step": {"model": "fixed", "step_ns": "1"}}, r"cluster\.chat\.step\.step_ns: given '1'"),
        ({"step": {"efficiency": {"matrix_compute": 1.5}}}, "matrix_compute must be from 0.05 to 1, got 1.5"),
        ({"step": {"efficiency": {"matrix": 1.5}}}, "unknown efficiency 'matrix'; did you mean"),
    ],
)
def test_what_cannot_be_built(pool: dict[str, Any], said: str) -> None:
    """What does not exist or does not fit is an input error that names the key."""
    with pytest.raises(InputError, match=said):
        built(real(**pool))


def test_host_overhead_replaces_the_models_own_part_by_part() -> None:
    """One part of the host overhead can be set, the other keeps the step model's default."""
    model = built(real(step={"model": "roofline", "host": {"per_step_us": 7}})).instances[0].step_model
    assert isinstance(model, RooflineStepModel)
    assert (model.host.per_step_us, model.host.per_request_us) == (7, DEFAULT_HOST_OVERHEAD.per_request_us)


def test_without_a_model_blocks_must_be_given(small: dict[str, Any]) -> None:
    """A step model that needs no model needs none named, but the KV cache's size must then be said."""
    del small["cluster"][0]["engine"]
    with pytest.raises(InputError, match=r"cluster\.chat\.engine: the KV cache's size follows from a model"):
        built(small)
    assert built(small, cluster__chat__engine={"num_gpu_blocks_override": 9}).instances[0].settings.max_model_len == 128


def test_front_end(small: dict[str, Any]) -> None:
    """Microseconds of the front end become nanoseconds; without one there is none."""
    assert built(small).front_end is None
    assert built(small, front_end={"request_us": 1.5}).front_end == FrontEnd(request_ns=1500, response_ns=0)


def test_a_device_that_nobody_needs_is_only_named(small: dict[str, Any]) -> None:
    """Where nothing needs the data sheet an unknown device is no error, but it is told, with the nearest match."""
    small["cluster"][0]["hardware"] = {"device": "H100-SXN"}
    notices = servetwin.simulate(small).summary["notices"]
    assert len(notices) == 1
    assert "unknown device 'H100-SXN'; did you mean 'H100-SXM'?" in notices[0]
    assert built(small, cluster__chat__hardware={"device": "H100-SXM"}).notices == []


class LastInstance:
    """A router from Python: always the last candidate."""

    reads: frozenset[str] = frozenset()

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Return the last candidate."""
        return int(candidates[-1])


def test_implementations_given_from_python(small: dict[str, Any]) -> None:
    """A router, a step model and a workload may stand as objects where their names stand, and are written by class."""
    requests = Workload(np.array([0, 5]), np.array([4, 4]), np.array([2, 2]))
    small["cluster"][1]["step"] = FixedLatency(5)
    result = servetwin.simulate(small | {"router": LastInstance(), "workload": requests})
    assert result.requests["instance"].tolist() == ["batch-0", "batch-0"]
    assert result.requests["finish_s"].tolist() == [1.0e-8, 1.5e-8]
    assert "python:test_build.LastInstance" in result.info.resolved_yaml
    with pytest.raises(InputError, match="should be the name of a router"):
        servetwin.simulate(small | {"router": 3})


def test_simulate_takes_a_path_a_mapping_and_edits(small: dict[str, Any], tmp_path: Path) -> None:
    """The same scenario as a file and as a mapping gives the same summary; edits and seeds change it."""
    import yaml

    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(small))
    first = servetwin.simulate(small).summary
    assert servetwin.simulate(path).summary == servetwin.simulate(str(path)).summary == first
    assert servetwin.simulate(path, seed=9).summary["duration_s"] != first["duration_s"]
    more = servetwin.simulate(path, edits={"workload.requests": 25}, check_invariants=True).summary
    assert more["requests"]["completed"] == 25


CONFIG = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 1000, "max_position_embeddings": 512, "torch_dtype": "bfloat16",
}  # fmt: skip


def test_requests_may_call_a_model_as_the_scenario_does(tmp_path: Path) -> None:
    """A model that is named by the path of its config.json gets the requests for that path; others are told before."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(CONFIG))
    scenario = {
        "cluster": [
            {"name": "a", "model": "tiny/config.json", "hardware": {"device": "L4"}},
            {"name": "b", "model": "meta-llama/Llama-3.2-1B", "hardware": {"device": "L4"}},
        ],
        "workload": {
            "kind": "synthetic", "requests": 60, "arrivals": {"kind": "constant", "rate_per_s": 10},
            "prompt_tokens": 20, "output_tokens": 3,
            "model": {"tiny/config.json": 1, "meta-llama/Llama-3.2-1B": 1, "gpt-5": 1},
        },
    }  # fmt: skip
    deployment = build(load_scenario(scenario, folder=tmp_path))
    unserved = sum(model == "gpt-5" for model in deployment.workload.model or ())
    assert deployment.rejections == [f"requests for the model 'gpt-5', which no pool serves: {unserved}"]
    requests = servetwin.simulate(deployment).requests
    served = {
        (str(model), str(instance)) for model, instance in zip(requests["model"], requests["instance"], strict=True)
    }
    assert {("tiny", "a-0"), ("meta-llama/Llama-3.2-1B", "b-0")} < served
    assert sum(state == "rejected" for state in requests["state"]) == unserved
