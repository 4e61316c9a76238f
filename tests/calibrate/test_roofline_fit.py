"""The roofline's calibration: closed forms against simulation, fits that find what was put in, targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.calibrate.fit_roofline import fitted_on, write_efficiency
from servetwin.calibrate.roofline.closed_form import SteadyLoad, _median_of_poisson, saturated_step_s, steady_state
from servetwin.calibrate.roofline.kernel_fit import fit_kind, judge_kind
from servetwin.calibrate.roofline.kernel_times import KINDS
from servetwin.calibrate.roofline.run_fit import Models, RunCoefficients, fit_vllm_runs
from servetwin.calibrate.roofline.tables import Table, read_table
from servetwin.calibrate.roofline.vllm_runs import Stage, read_stages, run_errors
from servetwin.calibrate.roofline_cases import (
    coefficients,
    mlenergy,
    profiled_runs,
    vllm_015_held_out,
    vllm_015_runs,
    vllm_015_simulated,
)
from servetwin.core.errors import InputError
from servetwin.core.fields import read_document
from servetwin.hardware import load_device
from servetwin.step.efficiency import Efficiency, read_efficiency
from servetwin.step.fixed import FixedLatency
from servetwin.step.host import HostOverhead

H100 = load_device("H100-SXM")


def test_little_s_law_holds_in_the_closed_form() -> None:
    """With steps of 10 ms, 2 requests a second of 100 tokens each, 2 decode; a first token takes 2.5 steps."""
    model = FixedLatency(10_000_000)
    state = steady_state(model, SteadyLoad(2.0, 16, 500, 100), front_end_s=0.003, max_num_seqs=128)
    assert state.inter_token_s == pytest.approx(0.01)
    assert state.batch == pytest.approx(2.0)
    assert state.ttft_s == pytest.approx(0.028)
    assert state.e2e_s(100) == pytest.approx(0.028 + 0.99)


def test_a_full_server_s_throughput_is_batch_over_step() -> None:
    """Where every step takes as long, prompts change neither the median gap nor the mean step."""
    assert saturated_step_s(FixedLatency(20_000_000), 64, 256, 400.0, 8192) == (0.02, 0.02)


@given(mean=st.floats(0.0, 30.0))
def test_the_median_of_a_poisson_variable_is_near_its_mean(mean: float) -> None:
    """It lies between mean - ln 2 and mean + 1/3 (Choi, 1994)."""
    assert mean - 0.6932 <= _median_of_poisson(mean) <= mean + 0.3334


@pytest.mark.parametrize("index", range(len(KINDS)), ids=[kind.name for kind in KINDS])
def test_a_fit_finds_the_coefficients_of_a_table_made_with_them(index: int) -> None:
    """Times made with other coefficients than those from which the fit starts are met within a percent or two."""
    pytest.importorskip("scipy")
    kind = KINDS[index]
    table = made_table(kind.folder)
    true = Efficiency(matrix_us=4.0, matrix_bandwidth=0.7, decode_item_us=2.0, prefill_compute=0.5, experts_us=20.0)
    true = true.changed({"decode_fp8_bandwidth": 0.5, "quantized_compute": 0.7})
    table = Table(table.device, table.columns, table.labels, kind.times(table)(true))
    start = true.changed({name: value for name, value in START.items() if name in kind.coefficients})
    assert judge_kind(kind, table, fit_kind(kind, [table], start)).p90 < 0.02
    assert judge_kind(kind, table, true).median == 0


START = {"matrix_us": 2.5, "decode_bandwidth": 0.8, "prefill_tile_us": 3.0, "experts_bandwidth": 0.7}


def made_table(folder: str) -> Table:
    """Return a table of random shapes without times."""
    rng = np.random.default_rng(3)
    rows = 150
    choose = {
        "gemm": {"m": [1, 64, 512, 4096], "n": [4096, 28672], "k": [4096, 8192]},
        "attention": {
            "batch_size": [16, 64, 256], "isl": [512, 2048, 8192], "step": [2047, 8191], "num_heads": [32, 64],
            "num_key_value_heads": [8], "head_dim": [64, 128], "window_size": [0],
        },
        "moe": {
            "num_tokens": [4, 64, 1024, 4096], "hidden_size": [4096], "inter_size": [14336], "topk": [2],
            "num_experts": [8, 64], "moe_tp_size": [1, 2], "moe_ep_size": [1],
        },
    }[folder]  # fmt: skip
    columns = {name: rng.choice(np.array(values, dtype=float), rows) for name, values in choose.items()}
    labels = {"kv_cache_dtype": rng.choice(np.array(["bfloat16", "fp8"]), rows)} if folder == "attention" else {}
    return Table(H100, columns, labels, np.ones(rows))


def test_a_fit_to_runs_finds_the_host_that_made_them() -> None:
    """Runs made with a host overhead and a front end, within what is expected of them, are met to a percent."""
    pytest.importorskip("scipy")
    true = RunCoefficients(Efficiency(), HostOverhead(350.0), 6000.0)
    stages = [made_stage(rate, true) for rate in (2.0, 8.0, 15.0)]
    fitted = fit_vllm_runs(stages, RunCoefficients(Efficiency(), HostOverhead(200.0), 3000.0))
    errors = run_errors(stages, Models(fitted).of, fitted.front_end_us * 1e-6)
    assert max(np.abs(values).max() for values in errors.values()) < 0.01


def made_stage(rate: float, true: RunCoefficients) -> Stage:
    """Return a stage whose measured means are those of the closed form."""
    stage = Stage(f"run {rate}", "meta-llama/Llama-3.1-8B", 1, 128, 2048, 4, 5, 100, rate, 100, 566, 200, 1.0, 0.1)
    e2e_s, _, ttft_s = stage.predicted(Models(true).of(stage), true.front_end_us * 1e-6).tolist()
    return Stage(f"run {rate}", stage.model, 1, 128, 2048, 4, 5, 100, rate, 100, 566, 200, e2e_s, ttft_s)


def test_a_written_file_reads_back(tmp_path: Path) -> None:
    """What the command writes is what the step model reads; a file that lacks a coefficient is refused."""
    path = tmp_path / "hopper.yaml"
    efficiency = Efficiency(matrix_us=3.25, decode_bandwidth=0.875)
    write_efficiency(path, efficiency, fitted_on("hopper"))
    assert read_efficiency(read_document(path), where=str(path)) == efficiency
    path.write_text(path.read_text().replace("matrix_us", "matrix_usec"))
    with pytest.raises(InputError, match="matrix_us is missing"):
        read_efficiency(read_document(path), where=str(path))


def test_a_missing_system_is_an_error(tmp_path: Path) -> None:
    """A folder that is not the package's says so."""
    with pytest.raises(InputError, match="no tables of h100_sxm"):
        read_table(tmp_path, "h100_sxm", "gemm", "gemm_perf")


@pytest.mark.measured
def test_cached_prompts_of_the_runs_end_in_an_unfilled_block(reference: Path) -> None:
    """Each stage computes at most a block of its prompt, and twelve runs are left without the overloaded ones."""
    stages = read_stages(reference)
    assert len({stage.experiment for stage in stages}) == 12
    assert all(1 <= stage.load.new_tokens <= 16 for stage in stages)
    assert all(stage.load.new_tokens + stage.load.context_tokens == stage.prompt_tokens for stage in stages)


@pytest.mark.measured
@pytest.mark.parametrize("case", [vllm_015_runs, vllm_015_held_out, mlenergy, profiled_runs])
def test_targets_are_met(reference: Path, case: object) -> None:
    """Every check with a target meets it."""
    pytest.importorskip("scipy")
    missed = [check for result in case(reference) for check in result.missed]  # type: ignore[operator]
    assert missed == []


@pytest.mark.measured
def test_the_closed_form_is_what_a_simulation_gives(reference: Path) -> None:
    """Two runs, simulated request by request with scattered arrivals: within 3 % of the closed form, 6 % in TTFT."""
    used = coefficients("vllm-0.15")
    stages = read_stages(reference)
    closed = run_errors(stages, Models(used).of, used.front_end_us * 1e-6)
    [result] = vllm_015_simulated(reference)
    assert result.checks
    for check in result.checks:
        [name] = [name for name in closed if name.endswith(check.statistic)]
        index = ("end to end", "inter-token", "TTFT").index(check.metric)
        assert check.error == pytest.approx(closed[name][index] * 100, abs=6 if index == 2 else 3)
