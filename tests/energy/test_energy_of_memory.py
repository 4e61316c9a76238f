"""Energy of memory that computes: what it takes, what the accelerators no longer do, conservation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from energy_helpers import NODE
from hypothesis import given, settings
from hypothesis import strategies as st

import servetwin
from servetwin.hardware.catalogue import load_device
from servetwin.hardware.power import device_power
from servetwin.llm.catalogue import load_model
from servetwin.llm.parallel import ONE_RANK
from servetwin.scenario.result import Result
from servetwin.step.base import StepShape
from servetwin.step.clocks import ClockPolicy, Governor
from servetwin.step.pim.factory import pim_step_model
from servetwin.step.pim.model import PimStepModel
from servetwin.step.pim.work import PimEnergy, PimWork
from servetwin.step.roofline import RooflineStepModel
from servetwin.step.work_columns import StepColumns, StepWork

MODEL = load_model("meta-llama/Llama-3.1-8B")
L40S = load_device("L40S")
ROOFLINE = RooflineStepModel(MODEL, L40S)
IN_MEMORY = {"attention_decode": "pim", "attention_prefill": "accelerator", "gemm": "accelerator"}
AIM = {"device": "GDDR6-AiM", "count": 32}
SHAPES = [
    StepShape(32, 32 * 3000, (), 3000, 3000),
    StepShape(8, 800, ((512, 0),), 100, 100),
    StepShape(0, 0, ((512, 1024),)),
]
COLUMNS = StepColumns.of_shapes(SHAPES)


def model_of(pim: dict[str, Any] = AIM, mapping: dict[str, str] = IN_MEMORY, **options: Any) -> PimStepModel:
    """Return an L40S beside memory that computes."""
    return pim_step_model(ROOFLINE, MODEL, Path(), lambda: 2**30, lambda: L40S, pim=pim, mapping=mapping, **options)


def work_of(model: PimStepModel) -> PimWork:
    """Return what is left to the L40S."""
    return PimWork(MODEL, ONE_RANK, None, model)


def run(pim: dict[str, Any] = AIM, interleaving: str = "auto", **changes: Any) -> Result:
    """Simulate a small load; ``changes`` replace top-level keys."""
    step = {"model": "pim", "pim": pim, "mapping": IN_MEMORY, "interleaving": interleaving}
    scenario: dict[str, Any] = {
        "model": "meta-llama/Llama-3.1-8B",
        "cluster": [{"name": "a", "hardware": {"device": "L40S"}, "step": step}],
        "workload": {
            "kind": "synthetic",
            "requests": 25,
            "arrivals": {"kind": "poisson", "rate_per_s": 20},
            "prompt_tokens": {"kind": "uniform", "min": 5, "max": 3000},
            "output_tokens": {"kind": "uniform", "min": 1, "max": 40},
        },
        "power": {"node": NODE, "pue": 1.2},
    }
    return servetwin.simulate(scenario | changes)


def test_attention_in_memory_is_no_work_of_the_accelerators() -> None:
    """Of decodes: KV and its operations are gone, prompts and weights stay."""
    whole, left = StepWork(MODEL).of(COLUMNS), work_of(model_of(interleaving="off")).of(COLUMNS)
    assert np.all(left.decode_kv_bytes == 0.0)
    assert left.weight_bytes.tolist() == pytest.approx(whole.weight_bytes.tolist())
    assert (whole.kv_bytes - left.kv_bytes).tolist() == pytest.approx(whole.decode_kv_bytes.tolist())
    assert left.total_flops[2] == whole.total_flops[2]
    assert left.total_flops[0] < whole.total_flops[0]


def test_turns_read_weights_twice() -> None:
    """In steps in which two half batches take turns, and only there."""
    pim = {"device": "LPDDR5-PIM", "count": 4}
    columns = StepColumns.of_shapes([StepShape(256, 256 * 4000, (), 4000, 4000), StepShape(4, 400, (), 100, 100)])
    plain, turns = (work_of(model_of(pim, interleaving=how)).of(columns) for how in ("off", "auto"))
    added = turns.weight_bytes - plain.weight_bytes
    assert added[0] == pytest.approx(15e9, rel=0.03)  # all weights but the embedding
    assert added[1] == 0.0
    assert turns.total_flops.tolist() == pytest.approx(plain.total_flops.tolist())


def test_the_accelerators_wait_while_nothing_hides_the_memory() -> None:
    """Long contexts in slow memory keep them waiting for as long as attention lasts; prompts alone do not."""
    model = model_of(interleaving="off")
    waiting = np.asarray(work_of(model).of(COLUMNS).waiting)
    expected = model.pim_busy_ns(SHAPES[0]) / model.duration_ns(SHAPES[0])
    assert waiting[0] == pytest.approx(expected, rel=0.05)
    assert waiting[2] == 0.0


def test_products_in_memory_take_energy_there() -> None:
    """Weights from its banks and two operations per multiply-add, and none of it on the accelerators."""
    mapping = IN_MEMORY | {"gemm": "pim"}
    model = model_of({"device": "CXL-PNM", "count": 1}, mapping, interleaving="off")
    own, attention = (
        PimEnergy(item, MODEL, device=item.device).steps_j(COLUMNS)
        for item in (model, model_of({"device": "CXL-PNM", "count": 1}, interleaving="off"))
    )
    assert model.device is not None
    weights = StepWork(MODEL).of(COLUMNS).weight_bytes - work_of(model).of(COLUMNS).weight_bytes
    flops = StepWork(MODEL).of(COLUMNS).total_flops - work_of(model).of(COLUMNS).total_flops
    flops[:2] -= StepWork(MODEL).of(COLUMNS).total_flops[:2] - work_of(model_of()).of(COLUMNS).total_flops[:2]
    expected = weights * model.device.access_j_per_byte + flops * model.device.operation_j
    assert (own - attention).tolist() == pytest.approx(expected.tolist(), rel=0.01)


def test_near_memory_sends_no_scores_over_its_pins() -> None:
    """So its energy is that of KV, operations, and what crosses the link."""
    model = model_of({"device": "CXL-PNM", "count": 1}, interleaving="off")
    device, attention = model.device, model.attention
    assert device is not None
    shape = StepShape(8, 8000, (), 1000, 1000)
    columns = StepColumns.of_shapes([shape])
    kv_bytes = 131_072 * 8008
    flops = 32 * 4 * 32 * 128 * 8008
    crossing = 8 * (32 * 32 * 256 * 2 + 131_072)
    assert attention.link_bytes(columns)[0] == crossing
    expected = (kv_bytes * device.access_j_per_byte + flops * device.operation_j) + crossing * (
        device.external_j_per_byte
    )
    assert attention.steps_j(columns)[0] == pytest.approx(expected)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(["GDDR6-AiM", "HBM-PIM", "CXL-PNM", "LPDDR5-PIM"]),
    st.sampled_from(["off", "auto"]),
    st.sampled_from([{}, {"cap_w": 250.0}, {"decode_clock": 0.6}]),
    st.integers(0, 10**6),
)
def test_energy_is_the_integral_of_power_with_memory_that_computes(
    device: str, interleaving: str, policy: dict[str, Any], seed: int
) -> None:
    """Components, series and requests' shares all sum to the total (1e-9), the memory's among them."""
    pim = {"device": device, "count": 40}
    energy = run(pim, interleaving, seed=seed, power={"node": NODE, "pue": 1.2, **policy}).energy
    assert energy is not None
    assert energy.components_j["pim"] > 0
    series = energy.series(0.1)
    seconds = np.diff(np.append(series["time_s"], energy.duration_s))
    assert float((series["total"] * seconds).sum()) == pytest.approx(energy.total_j, rel=1e-9)
    assert float((series["pim"] * seconds).sum()) == pytest.approx(energy.components_j["pim"], rel=1e-9)
    assert energy.request_j.sum() == pytest.approx(energy.total_j, rel=1e-9)


def test_memory_at_rest_draws_what_its_file_says(tmp_path: Path) -> None:
    """All devices of the instance, from beginning to end; the built-in ones do not say, which is a notice."""
    import yaml

    from servetwin.hardware.pim import CATALOGUE

    data = yaml.safe_load((CATALOGUE / "GDDR6-AiM.yaml").read_text(encoding="utf-8"))
    data["energy"]["idle_w"] = 1.5
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    silent, own = run(), run({"device": str(path), "count": 32})
    assert silent.energy is not None
    assert own.energy is not None
    more = own.energy.components_j["pim"] - silent.energy.components_j["pim"]
    assert more == pytest.approx(32 * 1.5 * own.energy.duration_s, rel=1e-6)
    assert any("draws at rest is not known" in notice for notice in silent.summary["notices"])
    assert not any("draws at rest is not known" in notice for notice in own.summary["notices"])


def test_a_lower_clock_does_not_slow_the_memory() -> None:
    """Only the time in which the accelerators work is stretched: at half the clock at most by its double."""
    model = model_of({"device": "LPDDR5-PIM", "count": 4}, interleaving="off")
    shape = StepShape(64, 64 * 4000, ((256, 0),), 4000, 4000)
    work = work_of(model)
    waiting = float(np.max(work.of_shape(shape).waiting))
    governor = Governor(work, L40S, device_power(L40S), ClockPolicy(clock=0.5), model)
    clock, stretch = governor.of_shape(shape)
    assert clock == 0.5
    assert waiting > 0.3
    assert 1.0 < stretch <= 1.0 + (1.0 - waiting) * 1.1


def test_a_pool_with_memory_that_computes_may_be_the_decode_side() -> None:
    """Its decodes attend there and hardly a prompt is computed; KV crosses the network; outputs get faster."""
    path = Path(__file__).parents[2] / "examples" / "pim_decode.yaml"
    less = {"workload.requests": 60}
    ours = servetwin.simulate(path, edits=less)
    alone = servetwin.simulate(path, edits=less | {"cluster.outputs.step": {"model": "roofline"}})
    assert ours.summary["tpot_s"]["mean"] < 0.9 * alone.summary["tpot_s"]["mean"]
    assert ours.energy is not None
    assert alone.energy is not None
    components = ours.energy.pool_components_j
    assert components["outputs"]["pim"] > 0.0
    assert components["prompts"]["pim"] == 0.0
    crossing_j = 131_072 * 8 * 20e-12 * float(ours.energy.outcome.workload.prompt_tokens.sum())
    assert components["outputs"]["nics"] == pytest.approx(15.0 * ours.energy.duration_s + crossing_j)
    assert alone.energy.components_j["pim"] == 0.0
    decoded = sum(item.steps.columns.num_decodes.sum() for item in ours.energy.pools[1].instances)
    computed = sum(item.steps.columns.prefill_tokens.sum() for item in ours.energy.pools[1].instances)
    assert computed < 0.02 * decoded
    assert ours.energy.request_j.sum() == pytest.approx(ours.energy.total_j, rel=1e-9)
