"""Energy, cost and power of encoders: conservation, closed forms, what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from energy_helpers import NODE, run, scenario
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.hardware import load_device
from servetwin.hardware.power import device_power
from servetwin.scenario.result import Result
from servetwin.step.encoder_time import VisionEncoder
from servetwin.step.vision_transformer import VISION_TRANSFORMERS
from servetwin.workload.base import Workload

MODEL = {"device": "L40S", "model": "qwen2.5-vl", "tokens_per_image": 500}
MEASURED = {"device": "L40S", "time": {"per_batch_us": 20_000.0, "per_token_us": 20.0}, "busy_w": 250.0}
IMAGES = {"encoder_tokens": {"kind": "uniform", "min": 100, "max": 1500}, "encoder_share": 0.5}


def encode(encoders: dict[str, Any], **changes: Any) -> Result:
    """Simulate requests of which half have images."""
    base = scenario()
    return run(**{"workload": base["workload"] | IMAGES, "encoders": encoders, **changes})


@settings(max_examples=10, deadline=None)
@given(
    encoders=st.sampled_from([MODEL, MODEL | {"workers": 3, "max_batch_requests": 1}, MEASURED]),
    apart=st.booleans(),
    policy=st.sampled_from([{}, {"race_to_idle": True}, {"sleep_after_s": 0.2, "sleep_w": 10.0}, {"cap_w": 300.0}]),
    interval_s=st.sampled_from([0.013, 0.25, 10.0]),
    seed=st.integers(0, 10**6),
)
def test_energy_is_the_integral_of_power_and_all_of_it_is_somebodys(
    encoders: dict[str, Any], apart: bool, policy: dict[str, Any], interval_s: float, seed: int
) -> None:
    """With encoders, too: series integrate to each component's energy, and requests' shares sum to all (1e-9)."""
    roles = ("prefill", "decode") if apart else ("both",)
    cluster = [{"name": role, "role": role, "hardware": {"device": "H100-SXM"}} for role in roles]
    nics = {"nics": {"count": 1, "idle_w": 15.0, "pj_per_bit": 50.0}}
    result = encode(encoders, cluster=cluster, power={"node": NODE | nics, "pue": 1.3, **policy}, seed=seed)
    energy = result.energy
    assert energy is not None
    series = energy.series(interval_s)
    seconds = np.diff(np.append(series["time_s"], energy.duration_s))
    for name, joules in energy.components_j.items():
        assert float((series[name] * seconds).sum()) == pytest.approx(joules, rel=1e-9, abs=1e-9)
    own = energy.series(interval_s, "encoders")
    pool_j = sum(energy.pool_components_j["encoders"].values())
    assert float((own["total"] * seconds).sum()) == pytest.approx(pool_j, rel=1e-9)
    assert sum(result.summary["energy"]["pools_j"].values()) == pytest.approx(energy.total_j, rel=1e-9)
    assert energy.request_step_j.sum() == pytest.approx(energy.step_j, rel=1e-9)
    assert energy.request_j.sum() == pytest.approx(energy.total_j, rel=1e-9)
    workers = encoders.get("workers", 1)
    drawn = sum(curve.energy_j for curve in energy.encoder_curves)
    spare_j = (4 - workers) * device_power(load_device("L40S")).idle_w * energy.duration_s
    rows = result.resources
    power_w = rows["value"][(rows["kind"] == "encoder") & (rows["metric"] == "power_w")]
    assert power_w.sum() * result.measurements.grid.interval_ns / 1e9 == pytest.approx(drawn, rel=1e-9)
    assert drawn + spare_j == pytest.approx(energy.pool_components_j["encoders"]["accelerators"], rel=1e-9)


def test_one_batch_draws_what_it_computes() -> None:
    """Closed form of one image: the kernels' floor and the energy of its operations and bytes, above standby."""
    one = Workload(np.array([0]), np.array([1100]), np.array([2]), encoder_tokens=np.array([1000]))
    energy = run(workload=one, encoders=MODEL, power={}).energy
    assert energy is not None
    device = load_device("L40S")
    power = device_power(device)
    work = VisionEncoder(VISION_TRANSFORMERS["qwen2.5-vl"], device, 500).work([1000])
    log = energy.outcome.encoding
    assert log is not None
    seconds = (log.end_ns[0] - log.start_ns[0]) / 1e9
    expected = (power.kernel_w - power.standby_w) * seconds + work.flops * power.flop_energy("bf16")
    expected += work.weight_bytes * power.joules_per_weight_byte + work.kv_bytes * power.joules_per_kv_byte
    record = energy.pools[-1].encoders
    assert record is not None
    assert record.request_j[0] == pytest.approx(min(expected, (power.limit_w - power.standby_w) * seconds))
    (curve,) = energy.encoder_curves
    assert curve.peak_w <= power.limit_w * (1 + 1e-9)


def test_measured_encoders_draw_what_they_are_said_to() -> None:
    """At work they draw `busy_w`, at rest what the device does."""
    energy = encode(MEASURED).energy
    assert energy is not None
    (curve,) = energy.encoder_curves
    lasting = np.diff(curve.edges_ns) > 0
    assert curve.watts[lasting].max() == pytest.approx(250.0)
    assert curve.watts[lasting].min() < 120


@pytest.mark.parametrize("name", sorted(VISION_TRANSFORMERS))
def test_work_is_done_within_the_peaks(name: str) -> None:
    """No batch computes more than the device can in its time, and operations are at least two per weight and patch."""
    device, sizes = load_device("L40S"), VISION_TRANSFORMERS[name]
    encoder = VisionEncoder(sizes, device)
    for tokens in ([1], [300, 900], [4000] * 4):
        work, seconds = encoder.work(tokens), encoder.batch_ns(tokens) / 1e9
        assert work.flops <= device.peak("bf16") * seconds
        weights = sizes.num_hidden_layers * sum(op.n * op.k for op in sizes.layer_products)
        assert work.flops >= 2 * weights * sum(tokens) * sizes.patches_per_token
        assert work.weight_bytes >= 2 * weights


def test_encoders_cost_what_their_devices_do() -> None:
    """Their hours are paid for, and requests with images pay more for them."""
    cost = {"devices": {"H100-SXM": {"on_demand": 3.0}, "L40S": {"on_demand": 1.0}}}
    text = {"name": "text", "max_prompt_tokens": 900}
    result = encode(MODEL | {"workers": 2}, cost=cost | {"classes": [text]})
    pools, hours = result.summary["cost"]["pools"], result.energy.duration_s / 3600
    assert pools["encoders"]["hardware"] == pytest.approx(2 * hours)
    assert sum(pool["total"] for pool in pools.values()) == pytest.approx(result.summary["cost"]["total"])
    classes = result.summary["cost"]["classes"]
    assert sum(item["total"] for item in classes.values()) == pytest.approx(result.summary["cost"]["total"])


@pytest.mark.parametrize(
    ("encoders", "changes", "message"),
    [
        ({"time": {}}, {}, "encoders: power and cost count the encoders, so their device must be known"),
        ({"time": {}, "device": "L40SS"}, {}, r"encoders\.device"),
        ({"time": {}, "device": "L40S"}, {}, r"encoders\.busy_w: measured times do not tell"),
        (MODEL | {"busy_w": 900.0}, {}, r"encoders\.busy_w: given 900: L40S draws .* at most 350 W"),
        (MODEL, {"power": {"devices": {"A100": {}}}}, "devices of the cluster: H100-SXM, L40S"),
        (
            MODEL,
            {"cost": {"devices": {"H100-SXM": {"on_demand": 3.0}}}},
            r"pool 'encoders' is paid by plan 'on_demand'",
        ),
    ],
)
def test_what_is_missing_is_said(encoders: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    """Errors name the key and what to give."""
    with pytest.raises(InputError, match=message):
        encode(encoders, **changes)
