"""Cost and carbon: closed forms, classes, and what bad input gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from energy_helpers import NODE, run, scenario

from servetwin.core.errors import InputError
from servetwin.energy.carbon import CarbonModel
from servetwin.scenario.build import build
from servetwin.scenario.load import load_scenario

RENT = {"devices": {"H100-SXM": {"on_demand": 3.0, "spot": 1.2}}}
OWN = {
    "plan": "own",
    "devices": {"H100-SXM": {"own": {"price": 35040.0, "lifetime_years": 4.0, "used_share": 0.5}}},
    "energy_per_kwh": 0.2,
}


def test_rent_is_paid_for_every_accelerator_and_hour() -> None:
    """Two accelerators from time 0 to the end; without power too."""
    result = run(cost=RENT, power=None)
    hours = result.outcome.end_ns / 3.6e12
    cost = result.summary["cost"]
    assert cost["total"] == pytest.approx(2 * 3.0 * hours)
    assert cost["per_hour"] == pytest.approx(6.0)
    assert run(cost=RENT | {"plan": "spot"}, power=None).summary["cost"]["per_hour"] == pytest.approx(2.4)


def test_tokens_bear_all_of_the_cost() -> None:
    """Input and output tokens at their prices add up to the total, with power on and off alike."""
    for power in ({"node": NODE}, None):
        result = run(cost=RENT, power=power)
        cost, tokens = result.summary["cost"], result.summary["tokens"]
        paid = (
            cost["per_million_input_tokens"] * tokens["prompt"] + cost["per_million_output_tokens"] * tokens["output"]
        )
        assert paid / 1e6 == pytest.approx(cost["total"], rel=1e-9)
        assert cost["per_request"] * 60 == pytest.approx(cost["total"], rel=1e-9)


def test_output_tokens_cost_more_than_input_tokens() -> None:
    """A prompt's tokens share one step; each output token has a step of its own batch."""
    cost = run(cost=RENT).summary["cost"]
    assert cost["per_million_output_tokens"] > 3 * cost["per_million_input_tokens"]


def test_owned_hardware_is_written_off_and_pays_for_energy() -> None:
    """35,040 over two years of use is 2 an hour; the energy's price comes on top."""
    result = run(cost=OWN)
    hours, kwh = result.outcome.end_ns / 3.6e12, result.summary["energy"]["kwh"]
    assert result.summary["cost"]["hardware"] == pytest.approx(2 * 2.0 * hours)
    assert result.summary["cost"]["energy"] == pytest.approx(kwh * 0.2)


def test_classes_share_the_cost() -> None:
    """Every request is in one class, the first that fits; together they bear everything."""
    classes = [{"name": "short", "max_prompt_tokens": 300}, {"name": "chatty", "min_output_tokens": 30}]
    result = run(cost=RENT | {"classes": classes})
    found = result.summary["cost"]["classes"]
    assert list(found) == ["short", "chatty", "other"]
    assert sum(item["requests"] for item in found.values()) == 60
    assert sum(item["total"] for item in found.values()) == pytest.approx(result.summary["cost"]["total"])
    short = result.requests["prompt_tokens"] <= 300
    assert found["short"]["requests"] == np.count_nonzero(short)


def test_classes_by_model_and_priority() -> None:
    """Requests that name no model or priority are in no class that asks for one, but for priority 0."""
    classes = [
        {"name": "other model", "model": "x"},
        {"name": "urgent", "priority": -1},
        {"name": "plain", "priority": 0},
    ]
    found = run(cost=RENT | {"classes": classes}).summary["cost"]["classes"]
    assert [item["requests"] for item in found.values()] == [0, 0, 60]
    assert found["urgent"]["per_request"] is None


def test_constant_carbon_is_energy_times_intensity() -> None:
    """And embodied emissions are written off by the hour."""
    carbon = {"g_per_kwh": 400.0, "embodied": {"H100-SXM": {"kg": 35.04, "lifetime_years": 4}}}
    result = run(carbon=carbon)
    summary = result.summary["carbon"]
    assert summary["operational_g"] == pytest.approx(400 * result.summary["energy"]["kwh"])
    assert summary["embodied_g"] == pytest.approx(2 * 1.0 * result.outcome.end_ns / 3.6e12)
    assert summary["g_per_request"] * 60 == pytest.approx(summary["total_g"])


def test_hourly_carbon_follows_the_hours() -> None:
    """Energy of each hour counts at that hour's intensity; the series begins anew, a run may begin within an hour."""
    workload = scenario()["workload"] | {"requests": 5, "arrivals": {"kind": "constant", "rate_per_s": 1 / 1800}}
    energy = run(workload=workload).energy
    assert energy is not None
    series = energy.series(1800.0)["total"]
    kwh = series * np.minimum(1800, energy.duration_s - 1800 * np.arange(len(series))) / 3.6e6
    found = CarbonModel((100.0, 500.0), start_hour=1.5).measure(energy)["operational_g"]
    hours = [500.0, 100.0, 100.0, 500.0, 500.0, 100.0]
    assert found == pytest.approx(float(sum(k * g for k, g in zip(kwh, hours, strict=False))), rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cost": {"devices": {}}},
            r"cost\.devices\.H100-SXM\.on_demand: pool 'a' is paid by plan 'on_demand'; prices given: none",
        ),
        ({"cost": RENT | {"plan": "reserved"}}, r"reserved: .*prices given: on_demand, spot"),
        ({"cost": RENT | {"plans": {"b": "spot"}}}, r"cost\.plans\.b: unknown pool 'b'"),
        (
            {"cost": {"devices": {"B200": {"on_demand": 3.0}}}},
            r"no pool has a device 'B200'; devices of the cluster: H100-SXM",
        ),
        ({"cost": {k: v for k, v in OWN.items() if k != "energy_per_kwh"}}, r"cost\.energy_per_kwh"),
        ({"cost": OWN, "power": None}, "give power too"),
        ({"carbon": {"g_per_kwh": 1.0}, "power": None}, "give power too"),
        ({"carbon": {"g_per_kwh": -1.0}}, r"carbon\.g_per_kwh.*-1"),
        ({"carbon": {"g_per_kwh": [100.0, -5.0]}}, r"carbon\.g_per_kwh.*hour 1 is -5"),
        ({"carbon": {"g_per_kwh": []}}, r"carbon\.g_per_kwh.*at least one hour"),
        ({"cost": RENT | {"devices": {"H100-SXM": {"on_demand": -2.0}}}}, r"on_demand.*-2"),
        ({"cost": RENT | {"classes": [{"name": "x"}, {"name": "x"}]}}, "class name 'x' is taken"),
    ],
)
def test_bad_prices_and_intensities(changes: dict[str, Any], message: str) -> None:
    """Missing prices, negative ones, negative intensities: the key and the figure are named."""
    with pytest.raises(InputError, match=message):
        build(load_scenario(scenario(**changes)))
