"""Keys of power that do not fit are errors that name the key and the figures."""

from __future__ import annotations

from typing import Any

import pytest

from servetwin.core.errors import InputError
from servetwin.scenario.build import build
from servetwin.scenario.load import load_scenario


def scenario(device: str = "H100-SXM", model: str | None = "meta-llama/Llama-3.2-1B", **power: Any) -> dict[str, Any]:
    """Return a scenario with power."""
    named = {} if model is None else {"model": model}
    step = {} if model else {"step": {"model": "fixed", "step_ns": 1000}, "engine": {"num_gpu_blocks_override": 9}}
    return named | {
        "cluster": [{"name": "a", "hardware": {"device": device}, **step}],
        "workload": {
            "kind": "synthetic",
            "requests": 1,
            "prompt_tokens": 1,
            "output_tokens": 1,
            "arrivals": {"kind": "constant", "rate_per_s": 1},
        },
        "power": power,
    }


@pytest.mark.parametrize(
    ("power", "message"),
    [
        (
            {"devices": {"H100-SXM": {"idle_w": 900.0}}},
            r"devices\.H100-SXM: .*idle_w \(900\) is not below limit_w \(700\)",
        ),
        ({"devices": {"H100": {"kernel_w": 800.0}}}, r"power\.devices\.H100: .*kernel_w \(800\).*limit_w \(700\)"),
        ({"devices": {"H100-SXM": {"idle_w": 120.0, "standby_w": 80.0}}}, r"idle_w \(120\).*standby_w \(80\)"),
        ({"devices": {"B200": {"idle_w": 1.0}}}, r"no pool has a device 'B200'; devices of the cluster: H100-SXM"),
        ({"devices": {"H100-SXM": {"idle": 1.0}}}, r"idle"),
        ({"cap_w": 750.0}, r"power\.cap_w: cap_w is 750 W; .*limit of 700 W"),
        ({"clock": 0.1}, r"power\.clock: 0\.1 is below the lowest clock of H100-SXM \(0\.2\)"),
        ({"node": {"host": {"idle_w": 300.0, "limit_w": 200.0}}}, r"idle_w \(300.*\) is above limit_w \(200"),
        ({"node": {"base_w": -5.0}}, r"power\.node\.base_w.*-5"),
        ({"node": {"psu_efficiency": 1.2}}, r"psu_efficiency"),
        ({"pue": 0.9}, r"pue.*0\.9"),
        ({"sleep_w": 5.0}, r"sleep_w \(5"),
        (
            {"sleep_w": 90.0, "sleep_after_s": 1.0},
            r"power\.sleep_w: 90 W is more than H100-SXM draws .* \(70 W\)",
        ),
        ({"thermal": {"resistance_c_per_w": 0.1, "ambient_c": 50.0, "throttle_c": 40.0}}, r"throttle_c \(40"),
        ({"thermal": {"resistance_c_per_w": 5.0}}, r"power\.thermal: cap_w is 12\.4 W"),
        ({"lss": {"nodes": []}, "pue": 1.1}, "pue has no effect beside lss"),
    ],
)
def test_bad_power(power: dict[str, Any], message: str) -> None:
    """Each mistake, with its key and figures."""
    with pytest.raises(InputError, match=message):
        build(load_scenario(scenario(**power)))


def test_a_device_without_power_figures_says_what_is_missing() -> None:
    """And with them given it runs."""
    with pytest.raises(InputError, match="TPU-v6e has no power figures: idle_w and limit_w missing"):
        build(load_scenario(scenario("TPU-v6e")))
    given = {"devices": {"TPU-v6e": {"idle_w": 60.0, "limit_w": 200.0}}}
    assert build(load_scenario(scenario("TPU-v6e", **given))).accounting.energy is not None


def test_power_needs_a_model() -> None:
    """What a step computes follows from the model; without one the key to give is named."""
    with pytest.raises(InputError, match=r"cluster\.a\.model: no model is named"):
        build(load_scenario(scenario(model=None)))


def test_accelerators_alone_are_said_to_be_alone() -> None:
    """Without a node a notice says what is left out."""
    notices = build(load_scenario(scenario())).notices
    assert any("power is that of the accelerators alone" in notice for notice in notices)
