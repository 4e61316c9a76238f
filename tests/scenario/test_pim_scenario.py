"""Memory that computes and operator times, in a scenario: where errors are said to be, what does not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import servetwin
from servetwin.core.errors import InputError

ACME = Path(__file__).parents[2] / "examples" / "acme-npu" / "device.yaml"


def simulate(step: dict[str, Any], device: str = "L40S", **engine: Any) -> Any:
    """Simulate five requests on one replica."""
    workload = {
        "kind": "synthetic",
        "requests": 5,
        "arrivals": {"kind": "poisson", "rate_per_s": 3},
        "prompt_tokens": 100,
        "output_tokens": 5,
    }
    pool = {"name": "p", "hardware": {"device": device}, "engine": engine, "step": step}
    return servetwin.simulate({"model": "meta-llama/Llama-3.1-8B", "cluster": [pool], "workload": workload})


def pim(**options: Any) -> dict[str, Any]:
    """Return a step beside a CXL module."""
    return {"model": "pim", "pim": {"device": "CXL-PNM", "count": 2}, **options}


@pytest.mark.parametrize(
    ("step", "engine", "message"),
    [
        (pim(pim={"device": "HBM-PIM", "count": 0}), {}, r"cluster\.p\.step\.pim\.count: a whole number"),
        (pim(pim={"device": "HBM-PM"}), {}, r"cluster\.p\.step\.pim\.device: unknown PIM device"),
        (pim(mapping={"gem": "pim"}), {}, r"cluster\.p\.step\.mapping: unknown operator class 'gem'"),
        (
            pim(pim={"device": "HBM-PIM", "count": 8}, mapping={"attention_decode": "pim"}),
            {"num_gpu_blocks_override": 60_000},
            r"cluster\.p\.step\.pim: the KV cache of 117.19 GiB does not fit in HBM-PIM: it holds 16.00 GiB",
        ),
        (pim(base={"model": "rofline"}), {}, "did you mean 'roofline'"),
        (pim(base={"model": "profile", "host": 3}), {}, r"step\.base: "),
        (pim(interleaving="always"), {}, r"step\.interleaving: given 'always'"),
        (pim(), {"pipeline_parallel_size": 2}, "'pim' has no parts that pipelines"),
    ],
)
def test_errors_name_the_key(step: dict[str, Any], engine: dict[str, Any], message: str) -> None:
    """By its path in the scenario, with what was given."""
    with pytest.raises(InputError, match=message):
        simulate(step, **engine)


def test_tensor_parallelism_divides_the_memory() -> None:
    """Two ranks, each with one module."""
    result = simulate(pim(mapping={"attention_decode": "pim"}), tensor_parallel_size=2)
    assert result.summary["requests"]["completed"] == 5


def test_operator_times_and_pipelines_do_not_go_together_yet() -> None:
    """The tables are not left aside silently."""
    assert simulate({"model": "roofline"}, str(ACME)).summary["requests"]["completed"] == 5
    with pytest.raises(InputError, match="Acme-NPU brings operator times, which pipelines"):
        simulate({"model": "roofline"}, str(ACME), pipeline_parallel_size=2)
