"""A small scenario that needs no data and runs in milliseconds."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def small() -> dict[str, Any]:
    """Return a scenario with two pools, a fixed step time and twenty requests."""
    return {
        "seed": 3,
        "cluster": [
            {
                "name": "chat",
                "replicas": 2,
                "engine": {"num_gpu_blocks_override": 200, "max_model_len": 512},
                "step": {"model": "fixed", "step_ns": 1_000_000},
            },
            {
                "name": "batch",
                "engine": {"num_gpu_blocks_override": 100, "max_model_len": 512},
                "step": {"model": "affine"},
            },
        ],
        "router": {"policy": "round_robin"},
        "workload": {
            "kind": "synthetic",
            "requests": 20,
            "arrivals": {"kind": "poisson", "rate_per_s": 50},
            "prompt_tokens": 20,
            "output_tokens": 5,
        },
        "slo": {"ttft_s": 0.5},
    }
