"""Small runs for the tests of energy."""

from __future__ import annotations

from typing import Any

import servetwin
from servetwin.scenario.result import Result

NODE = {
    "accelerators": 4,
    "base_w": 200.0,
    "host": {"idle_w": 100.0, "per_active_accelerator_w": 20.0, "limit_w": 300.0},
    "dram": {"count": 8, "idle_w": 3.0},
    "links": {"count": 2, "idle_w": 1.0, "pj_per_bit": 5.0},
    "nics": {"count": 1, "idle_w": 15.0},
    "storage": {"count": 2, "idle_w": 5.0},
    "psu_efficiency": 0.9,
}


def scenario(**changes: Any) -> dict[str, Any]:
    """Return a small scenario with power; ``changes`` replace top-level keys."""
    base: dict[str, Any] = {
        "model": "meta-llama/Llama-3.2-1B",
        "cluster": [{"name": "a", "replicas": 2, "hardware": {"device": "H100-SXM"}}],
        "workload": {
            "kind": "synthetic",
            "requests": 60,
            "arrivals": {"kind": "poisson", "rate_per_s": 40},
            "prompt_tokens": {"kind": "uniform", "min": 5, "max": 900},
            "output_tokens": {"kind": "uniform", "min": 1, "max": 60},
        },
        "power": {"node": NODE, "pue": 1.1},
    }
    return base | changes


def run(**changes: Any) -> Result:
    """Simulate it."""
    return servetwin.simulate(scenario(**changes))
