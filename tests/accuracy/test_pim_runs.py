"""Attention in memory against LLMServingSim's predictions and its own study."""

from __future__ import annotations

from pathlib import Path

import pytest

from servetwin.calibrate.pim_cases import CAUSES, FIGURE_10, PREDICTED_PIM, figure_10, predicted_pim, study_energies_j

pytestmark = pytest.mark.measured


def test_predictions_of_lss_are_met_request_by_request(reference: Path) -> None:
    """TTFT and TPOT of every request within 3 %, with halves in turns and without."""
    assert [check for result in predicted_pim(reference) for check in result.missed] == []


def test_figure_10_is_met(reference: Path) -> None:
    """Throughput and energy per token of mode lss within 5 %, and default mode's beside them."""
    results = figure_10(reference)
    assert [check for result in results for check in result.missed] == []
    assert all(len(result.checks) == 4 for result in results)


def test_energy_of_memory_in_figure_10_is_met(reference: Path) -> None:
    """Channels at rest, attention in them and what passes to them and back: each within 1 % of the study's."""
    for name, run in FIGURE_10.items():
        energy = run.simulate(reference, "lss").energy
        assert energy is not None
        assert energy.components_j["dram"] == pytest.approx(study_energies_j(reference, name)["Memory"], rel=0.01)


CHANGES = {key: value for change in CAUSES.values() for key, value in change.items()}


@pytest.mark.parametrize("key", CHANGES)
def test_each_point_of_mode_lss_can_be_turned_off_alone(reference: Path, key: str) -> None:
    """And changes the result."""
    run = FIGURE_10["pim-sbi" if "interleaving" in key else "pim"]
    on, off = run.simulate(reference, "lss"), run.simulate(reference, "lss", {key: CHANGES[key]})
    assert on.summary["duration_s"] != off.summary["duration_s"]


@pytest.mark.parametrize("growing", [True, False])
def test_coefficients_and_prompt_lengths_can_be_turned_off(reference: Path, growing: bool) -> None:
    """The file's geometry in place of the former, the whole context in place of the latter: other times."""
    run = PREDICTED_PIM["pim"]
    file = reference / "llmservingsim" / "configs" / "pim" / "DDR4_8GB_3200_pim.ini"
    ours = {"cluster.lss.step.pim": {"device": str(file), "memory_gib": 512.0}}
    edits = {"cluster.lss.step.pim.kv_grows": True} if growing else ours
    on, off = run.simulate(reference, "lss"), run.simulate(reference, "lss", edits)
    assert on.summary["tpot_s"]["mean"] != off.summary["tpot_s"]["mean"]
