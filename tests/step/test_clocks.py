"""Caps and clocks: power stays below a cap, steps get longer for it, and only as much as they must."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import servetwin
from servetwin.core.errors import InputError
from servetwin.hardware import load_device
from servetwin.hardware.power import device_power
from servetwin.llm.catalogue import load_model
from servetwin.scenario.build import build
from servetwin.scenario.load import load_scenario
from servetwin.step.base import StepShape
from servetwin.step.clocks import ClockedStepModel, ClockPolicy, Governor
from servetwin.step.roofline import RooflineStepModel
from servetwin.step.work_columns import StepWork

MODEL, DEVICE = load_model("meta-llama/Llama-3.1-8B"), load_device("H100-SXM")
INNER = RooflineStepModel(MODEL, DEVICE)
DECODES, PROMPT = StepShape(64, 64 * 500), StepShape(0, 0, ((2048, 0),))


def clocked(policy: ClockPolicy) -> ClockedStepModel:
    """Return the roofline under a policy."""
    return ClockedStepModel(
        INNER, Governor(StepWork(MODEL), DEVICE, device_power(DEVICE), policy, INNER, where="power.cap_w")
    )


SHAPES = st.builds(
    lambda n, mean, new: StepShape(n, n * mean, ((new, 0),) if new else ()),
    st.integers(1, 256),
    st.integers(1, 4000),
    st.sampled_from([0, 1, 500, 4096]),
)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.floats(300, 700), st.floats(300, 700))
def test_a_lower_cap_never_makes_a_step_faster(shape: StepShape, one: float, other: float) -> None:
    """Times fall with the cap, and are the inner model's at the board's limit."""
    low, high = sorted((one, other))
    times = [clocked(ClockPolicy(cap_w=cap)).duration_ns(shape) for cap in (low, high, 700.0)]
    assert times[0] >= times[1] >= times[2] == INNER.duration_ns(shape)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 3000), st.integers(1, 300), st.integers(1, 10**9))
def test_runs_equal_single_steps(n: int, mean: int, steps: int, limit_ns: int) -> None:
    """A run of steps under a cap is, to the nanosecond, its steps one by one."""
    model, shape = clocked(ClockPolicy(cap_w=420.0)), StepShape(n, n * mean)
    run = model.decode_run_ns(shape, steps, limit_ns)
    single = [model.duration_ns(StepShape(n, n * (mean + i))) for i in range(len(run))]
    assert list(run) == single
    assert len(run) == steps or sum(run) >= limit_ns > sum(run[:-1])


def test_prompts_pay_for_a_lower_clock_and_decodes_hardly() -> None:
    """At 60 % of the clock a prompt takes more than 1.4 times as long, a step of decodes less than 1.1 times."""
    model = clocked(ClockPolicy(clock=0.6, decode_clock=0.6))
    assert model.duration_ns(PROMPT) > 1.4 * INNER.duration_ns(PROMPT)
    assert INNER.duration_ns(DECODES) < model.duration_ns(DECODES) < 1.1 * INNER.duration_ns(DECODES)


def test_a_clock_for_decodes_leaves_prompts_alone() -> None:
    """Steps with a prompt's chunk run at full clock."""
    model = clocked(ClockPolicy(decode_clock=0.6))
    assert model.duration_ns(PROMPT) == INNER.duration_ns(PROMPT)
    assert model.duration_ns(DECODES) > INNER.duration_ns(DECODES)
    assert model.breakdown_ns(DECODES)["lower_clock"] > 0


@pytest.mark.parametrize("cap_w", [60.0, 900.0])
def test_a_cap_lies_between_kernels_and_limit(cap_w: float) -> None:
    """A cap that no clock reaches, or above the board's limit, names the figures."""
    with pytest.raises(InputError, match=rf"power\.cap_w: cap_w is {cap_w:g} W; H100-SXM draws .* limit of 700 W"):
        clocked(ClockPolicy(cap_w=cap_w))


def simulated(**power: object) -> servetwin.Result:
    """Simulate a full instance under some power options."""
    return servetwin.simulate(
        {
            "model": "meta-llama/Llama-3.1-8B",
            "cluster": [{"name": "a", "hardware": {"device": "H100-SXM"}}],
            "workload": {
                "kind": "synthetic",
                "requests": 150,
                "arrivals": {"kind": "poisson", "rate_per_s": 100},
                "prompt_tokens": 700,
                "output_tokens": 60,
            },
            "power": power,
        }
    )


def test_a_capped_run_stays_below_its_cap() -> None:
    """No moment of a run draws more than the cap, and the run takes longer and less power."""
    free, capped = simulated(), simulated(cap_w=450.0)
    assert free.energy is not None
    assert capped.energy is not None
    curve = capped.energy.accelerator_curve(0)
    assert curve.watts[np.diff(curve.edges_ns) > 0].max() <= 450.0 * (1 + 1e-9)
    assert free.energy.accelerator_curve(0).peak_w > 450.0
    assert capped.summary["e2e_s"]["mean"] > free.summary["e2e_s"]["mean"]


def test_slower_decodes_save_energy() -> None:
    """Lower clocks for decodes take less energy for the same tokens."""
    assert simulated(decode_clock=0.6).summary["energy"]["steps_j"] < simulated().summary["energy"]["steps_j"]


def test_thermal_throttling_is_a_cap_on_sustained_power() -> None:
    """A chip that may draw 450 W for ever is capped there; with better cooling nothing changes."""
    hot = {"resistance_c_per_w": 0.14, "ambient_c": 27.0, "throttle_c": 90.0}
    assert simulated(thermal=hot).summary["e2e_s"] == simulated(cap_w=450.0).summary["e2e_s"]
    assert simulated(thermal=hot | {"resistance_c_per_w": 0.05}).summary["e2e_s"] == simulated().summary["e2e_s"]


@pytest.mark.parametrize(
    "engine", [{"pipeline_parallel_size": 2}, {"data_parallel_size": 2, "enable_expert_parallel": True}]
)
def test_plans_are_clocked_too(engine: dict[str, object]) -> None:
    """Pipelines and lockstep groups slow down under a cap."""
    scenario = {
        "model": "Qwen/Qwen3-30B-A3B",
        "cluster": [{"name": "a", "hardware": {"device": "H100-SXM"}, "engine": engine}],
        "workload": {
            "kind": "synthetic",
            "requests": 10,
            "arrivals": {"kind": "poisson", "rate_per_s": 50},
            "prompt_tokens": 2000,
            "output_tokens": 5,
        },
    }
    means = [
        servetwin.simulate(build(load_scenario(scenario | {"power": power}))).summary["ttft_s"]["mean"]
        for power in ({}, {"clock": 0.4})
    ]
    assert means[1] > 1.2 * means[0]
