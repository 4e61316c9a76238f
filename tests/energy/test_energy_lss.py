"""LLMServingSim's power model: its equations in closed form, each peculiarity on and off, and bad input."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import servetwin
from servetwin.core.errors import InputError
from servetwin.scenario.result import Result

NODE: dict[str, Any] = {
    "instances": {"a-0": "H100-SXM"},
    "memory_gb": 100,
    "base_node_power": 60,
    "npu": {"H100-SXM": {"idle_power": 35, "standby_power": 300, "active_power": 600, "standby_duration": 3}},
    "cpu": {"idle_power": 10, "active_power": 200, "util": 0.15},
    "dram": {"dimm_size": 32, "idle_power": 2.0, "energy_per_bit": 6.0},
    "link": {"num_links": 1, "idle_power": 5, "energy_per_bit": 4.0},
    "nic": {"num_nics": 1, "idle_power": 20},
    "storage": {"num_devices": 2, "idle_power": 5},
}

STEP_S = 0.01
OUTPUT_TOKENS = 50


AFFINE = {"model": "affine", "base_ns": round(STEP_S * 1e9)}


def run(
    nodes: list[dict[str, Any]] | None = None, ranks: int = 1, step: dict[str, Any] = AFFINE, **switches: Any
) -> Result:
    """Simulate two requests, ten seconds apart, of 50 steps each."""
    engine = {"num_gpu_blocks_override": 100, "tensor_parallel_size": ranks}
    return servetwin.simulate(
        {
            "model": "meta-llama/Llama-3.1-8B",
            "cluster": [
                {
                    "name": "a",
                    "hardware": {"device": "H100-SXM"},
                    "engine": engine,
                    "step": step,
                }
            ],
            "workload": {
                "kind": "synthetic",
                "requests": 2,
                "arrivals": {"kind": "constant", "rate_per_s": 0.1},
                "prompt_tokens": 7,
                "output_tokens": OUTPUT_TOKENS,
            },
            "power": {"lss": {"nodes": nodes if nodes is not None else [NODE], **switches}},
        }
    )


def components(result: Result) -> dict[str, float]:
    """Return the energies."""
    assert result.energy is not None
    return result.energy.components_j


def busy_s(result: Result) -> float:
    """Return how long steps took."""
    (log,) = result.outcome.logs
    return float(sum(log.end_ns) - sum(log.start_ns)) / 1e9


def test_equations_in_closed_form() -> None:
    """Constants over the run, active accelerators and busier processors in steps, standby after them."""
    result = run(standby_remaining="exact", active_time="steps")
    seconds, busy = result.outcome.end_ns / 1e9, busy_s(result)
    found = components(result)
    assert found["base"] == pytest.approx(60 * seconds)
    assert found["accelerators"] == pytest.approx(35 * seconds + 565 * busy + 265 * 3.0)
    assert found["host"] == pytest.approx((10 + 190 * 0.15) * seconds + 190 * 0.55 * busy)
    assert found["dram"] == pytest.approx(3 * 2.0 * seconds)
    assert found["links"] == pytest.approx(5 * seconds)
    assert (found["nics"], found["storage"]) == pytest.approx((20 * seconds, 10 * seconds))


def test_standby_loses_a_poll() -> None:
    """What remains of standby is reckoned from the whole gap: a millisecond less; a switch turns that off."""
    lost = components(run(standby_remaining="exact"))["accelerators"] - components(run())["accelerators"]
    assert lost == pytest.approx(265 * 1e-3, rel=1e-6)


def test_standby_in_nanoseconds_is_none() -> None:
    """As its documents say, standby would last nanoseconds."""
    seconds = components(run())["accelerators"] - components(run(standby_unit="ns"))["accelerators"]
    assert seconds == pytest.approx(265 * 2.999, rel=1e-6)


def test_layers_only_are_active() -> None:
    """Accelerators and processors are active in layers, not in the host's part of a step; a switch turns that off."""
    roofline = {"model": "roofline"}
    layers, steps = run(step=roofline), run(step=roofline, active_time="steps")
    assert components(layers)["accelerators"] < components(steps)["accelerators"]
    assert components(layers)["host"] < components(steps)["host"]


def test_ranks_are_all_active_and_send_what_they_reduce() -> None:
    """Two ranks: two accelerators, and 2 (n - 1) / n of two all-reduces a layer and token over the link."""
    result = run(ranks=2, active_time="steps", standby_remaining="exact")
    found, seconds, busy = components(result), result.outcome.end_ns / 1e9, busy_s(result)
    assert found["accelerators"] == pytest.approx(2 * (35 * seconds + 565 * busy + 265 * 3.0))
    tokens = 2 * (7 + OUTPUT_TOKENS - 1)
    assert found["links"] - 5 * seconds == pytest.approx(tokens * 2 * 32 * 4096 * 2 * 8 * 4e-12)


def test_a_node_without_power_turns_energy_off() -> None:
    """As in LLMServingSim, with a notice; a switch makes it an error."""
    nodes = [{"instances": {"a-0": "H100-SXM"}, "memory_gb": 100}]
    result = run(nodes)
    assert result.energy is None
    assert any("energy is off for all" in notice for notice in result.summary["notices"])
    with pytest.raises(InputError, match=r"nodes\[0\]: has no power keys"):
        run(nodes, missing_node="error")


def edited(path: str, value: object) -> dict[str, Any]:
    """Return the node with one key changed, or left out for None."""
    node = copy.deepcopy(NODE)
    *parents, last = path.split(".")
    part = node
    for name in parents:
        part = part[name]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return node


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("cpu.util", None, r"nodes\[0\]\.cpu: key 'util' is missing"),
        ("dram.dimms", 4, r"nodes\[0\]\.dram: unknown key 'dimms'"),
        ("cpu.idle_power", 300, r"idle_power \(300\) is above active_power \(200\)"),
        ("npu.H100-SXM.standby_power", 10, r"idle_power \(35\) is above standby_power \(10\)"),
        ("base_node_power", -1, r"base_node_power: a finite number of at least 0 is needed, found -1"),
        ("instances", {"b-0": "H100-SXM"}, r"unknown instance 'b-0'"),
        ("instances", {"a-0": "H200"}, r"unknown accelerator 'H200'"),
    ],
)
def test_bad_power_keys(path: str, value: object, message: str) -> None:
    """Missing and unknown keys, negative powers, idle above active: key and figures are named."""
    with pytest.raises(InputError, match=message):
        run([edited(path, value)])
