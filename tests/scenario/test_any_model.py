"""Every kind of architecture runs with the roofline; measured profiles refuse what they have no tables for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import servetwin
import servetwin.hardware
import servetwin.llm
from servetwin.core.errors import InputError


def scenario(model: str, device: str, ranks: int, step: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return twenty requests on one replica."""
    return {
        "model": model,
        "cluster": [
            {
                "name": "chat",
                "hardware": {"device": device, "count": ranks},
                "engine": {"tensor_parallel_size": ranks},
                "step": step or {"model": "roofline"},
            }
        ],
        "workload": {
            "kind": "synthetic",
            "requests": 20,
            "arrivals": {"kind": "poisson", "rate_per_s": 2},
            "prompt_tokens": 200,
            "output_tokens": 30,
        },
    }


@pytest.mark.parametrize(
    ("model", "device", "ranks"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", "H100-SXM", 2),  # experts
        ("deepseek-ai/DeepSeek-V3", "H200-SXM", 8),  # latent attention, shared experts, fp8 blocks
        ("openai/gpt-oss-120b", "H100-SXM", 2),  # windows, MXFP4
        ("google/gemma-3-27b-it", "H100-SXM", 1),  # windows
        ("meta-llama/Llama-3.1-8B", "TPU-v6e", 1),
        ("meta-llama/Llama-3.1-8B", "MI300X", 1),
    ],
)
def test_it_runs_and_no_token_is_faster_than_its_weights_can_be_read(model: str, device: str, ranks: int) -> None:
    """All requests complete; a token takes at least the time in which activated weights are read once."""
    result = servetwin.simulate(scenario(model, device, ranks), check_invariants=True)
    assert result.summary["requests"]["completed"] == 20
    architecture = servetwin.llm.load_model(model)
    rank_bytes = architecture.weight_bytes(ranks) * architecture.num_active_parameters / architecture.num_parameters
    least_s = 0.9 * rank_bytes / servetwin.hardware.load_device(device).memory_bandwidth_bytes_per_s
    assert result.summary["tpot_s"]["mean"] > least_s


def test_a_profile_refuses_what_it_has_no_tables_for(tmp_path: Path) -> None:
    """The error says what the model has and what can time it."""
    with pytest.raises(
        InputError, match=r"latent attention \(MLA\) .*shared experts, for which measured profiles have no"
    ):
        servetwin.simulate(
            scenario("deepseek-ai/DeepSeek-V2-Lite", "H100-SXM", 1, {"model": "profile", "path": str(tmp_path)})
        )
