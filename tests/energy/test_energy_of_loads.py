"""Energy of weights that are loaded from memory beside the accelerators."""

from __future__ import annotations

from typing import Any

import pytest

import servetwin
from servetwin.scenario.result import Result

NODE = {"dram": {"count": 8, "idle_w": 3.0, "pj_per_bit": 6.0}, "cxl": {"count": 1, "idle_w": 10.0, "pj_per_bit": 9.0}}


def run(device: str, node: dict[str, Any] = NODE) -> Result:
    """Simulate Llama-3.1-8B with the last of each four layers on a memory device."""
    memory = {"name": device, "capacity_gb": 64, "bandwidth_gb_per_s": 25}
    return servetwin.simulate(
        {
            "model": "meta-llama/Llama-3.1-8B",
            "cluster": [
                {
                    "name": "a",
                    "hardware": {"device": "L40S", "memory": [memory]},
                    "placement": {"layers": {device: 8}},
                }
            ],
            "workload": {
                "kind": "synthetic",
                "requests": 10,
                "arrivals": {"kind": "poisson", "rate_per_s": 5},
                "prompt_tokens": 100,
                "output_tokens": 20,
            },
            "power": {"node": node},
        }
    )


@pytest.mark.parametrize(("device", "component", "pj_per_bit"), [("host", "dram", 6.0), ("cxl-0", "cxl", 9.0)])
def test_each_step_loads_the_layers_that_lie_elsewhere(device: str, component: str, pj_per_bit: float) -> None:
    """A quarter of the layers' 13.96 GB, once per step, at the component's energy per bit; nothing from the other."""
    energy = run(device).energy
    assert energy is not None
    steps = len(energy.pools[0].instances[0].step_j)
    idle = {"dram": 24.0, "cxl": 10.0}
    expected = steps * 13.96e9 / 4 * 8 * pj_per_bit * 1e-12
    for name, watts in idle.items():
        moved = energy.components_j[name] - watts * energy.duration_s
        assert moved == pytest.approx(expected if name == component else 0.0, rel=0.01, abs=1e-6)
    assert energy.request_j.sum() == pytest.approx(energy.total_j, rel=1e-9)


def test_loads_are_part_of_their_steps() -> None:
    """So the requests in them pay for them."""
    free = NODE | {"dram": {"count": 8, "idle_w": 3.0}}
    paid, unpaid = run("host").energy, run("host", free).energy
    assert paid is not None
    assert unpaid is not None
    moved = paid.components_j["dram"] - unpaid.components_j["dram"]
    assert paid.step_j - unpaid.step_j == pytest.approx(moved)
    assert moved > 0.0
