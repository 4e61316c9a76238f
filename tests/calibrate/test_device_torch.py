"""Measuring with PyTorch's CPU build: every operator runs, gives the right numbers, and takes a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from servetwin.calibrate.device_profile import Point, profile_device, read_device_profile
from servetwin.calibrate.device_profile.sampling import Plan
from servetwin.calibrate.device_profile.torch_device import open_device
from servetwin.calibrate.device_profile.torch_operators import MAX_COPIES, ROTATION_BYTES, Operators, copies_of
from servetwin.cli.main import app
from servetwin.core.errors import InputError

PLAN = Plan(warm_up_runs=1, warm_up_s=0, min_samples=2, min_s=0, max_samples=2)
POINTS = [
    Point("gemm", ("fp32", 2, 16, 32)),
    Point("gemm", ("bf16", 2, 16, 32)),
    Point("gemm", ("int8", 32, 16, 32)),
    Point("grouped_gemm", ("bf16", 2, 4, 16, 32)),
    Point("grouped_gemm", ("fp32", 2, 4, 16, 32)),
    Point("attention_prefill", ("fp32", 4, 2, 16, 8, 0)),
    Point("attention_prefill", ("fp32", 4, 2, 16, 8, 24)),
    Point("attention_decode", ("bf16", 4, 2, 16, 3, 24)),
    Point("rms_norm", ("fp32", 2, 64)),
    Point("silu_and_mul", ("fp32", 2, 64)),
    Point("copy", ("device_to_device", 4096)),
    Point("launch", ("eager", 10)),
]


@pytest.fixture
def small_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cycle through a few small copies only: these tests check functions, not speed."""
    monkeypatch.setitem(ROTATION_BYTES, "cpu", 2**14)


def test_every_operator_takes_a_time(tmp_path: Path, small_rotation: None) -> None:
    """On a CPU all but what needs a GPU is measured, and the header says under which conditions."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (servetwin[profile])")
    profile = profile_device(open_device("cpu", PLAN), tmp_path, POINTS, PLAN)
    assert profile.not_measured == {}
    assert profile.done() == set(POINTS)
    assert all(0 < row.statistics.median < 1e6 for rows in profile.rows.values() for row in rows)
    assert profile.header.device_type == "cpu"
    assert profile.header.conditions["torch"] == torch.__version__
    assert profile.header.conditions["threads"] == torch.get_num_threads()


def test_what_needs_a_gpu_is_noted(tmp_path: Path, small_rotation: None) -> None:
    """Power, and a product that PyTorch refuses, stand with their reasons."""
    pytest.importorskip("torch", reason="PyTorch is not installed (servetwin[profile])")
    power, wrong = Point("power", ("idle",)), Point("attention_decode", ("fp32", 4, 3, 16, 1, 8))
    profile = profile_device(open_device("cpu", PLAN), tmp_path, [power, wrong, POINTS[0]], PLAN)
    assert profile.not_measured[power] == "a CPU's power is not read"
    assert POINTS[0] in profile.done()


def test_a_point_that_does_not_fit(tmp_path: Path) -> None:
    """A point beyond the memory is noted with what it needs, before anything is allocated."""
    pytest.importorskip("torch", reason="PyTorch is not installed (servetwin[profile])")
    huge = Point("attention_decode", ("bf16", 64, 8, 128, 10**6, 10**6))
    profile = profile_device(open_device("cpu", PLAN), tmp_path, [huge], PLAN)
    assert "GiB are free" in profile.not_measured[huge]


@pytest.mark.parametrize("context", [0, 5])
def test_prefill_sees_the_context_and_no_later_token(small_rotation: None, context: int) -> None:
    """The chunk's tokens stand at the end: attention equals that with an explicit mask, heads sharing KV."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (servetwin[profile])")
    seen: list[tuple[object, ...]] = []
    operators = Operators(torch, torch.device("cpu"))
    original = operators._random
    operators._random = lambda *args: seen.append(made := original(*args)) or made  # type: ignore[method-assign,func-returns-value]
    calls = operators.build(Point("attention_prefill", ("fp32", 4, 2, 8, 3, context)))
    q, k, v = seen[:3]
    mask = torch.ones(3, 3 + context, dtype=torch.bool).tril(diagonal=context)
    k, v = (one.repeat_interleave(2, dim=1) for one in (k, v))  # type: ignore[attr-defined]
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(calls.functions[0](), expected)


def test_decode_equals_attention_per_head(small_rotation: None) -> None:
    """Heads that share KV as the query's tokens give what each head gives alone."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (servetwin[profile])")
    seen: list[object] = []
    operators = Operators(torch, torch.device("cpu"))
    original = operators._random
    operators._random = lambda *args: seen.append(made := original(*args)) or made  # type: ignore[method-assign,func-returns-value]
    got = operators.build(Point("attention_decode", ("fp32", 4, 2, 8, 3, 6))).functions[0]()
    q, k, v = seen[:3]
    k, v = (one.repeat_interleave(2, dim=1) for one in (k, v))  # type: ignore[attr-defined]
    expected = torch.nn.functional.scaled_dot_product_attention(q.reshape(3, 4, 1, 8), k, v)  # type: ignore[attr-defined]
    torch.testing.assert_close(got.reshape(3, 4, 1, 8), expected)


def test_copies_that_no_cache_holds() -> None:
    """Small weights are cycled through many copies, large ones stand alone."""
    assert copies_of(2**20, "cuda") == MAX_COPIES
    assert copies_of(2**28, "cuda") == 2
    assert copies_of(2**40, "cuda") == 1
    assert copies_of(0, "cpu") == MAX_COPIES


def test_the_command_goes_on_where_it_was(tmp_path: Path) -> None:
    """``servetwin profile device`` writes a profile, prints its summary, and a second call measures nothing again."""
    pytest.importorskip("torch", reason="PyTorch is not installed (servetwin[profile])")
    arguments = ["profile", "device", "-o", str(tmp_path / "cpu"), "--device", "cpu", "--quick"]
    arguments += ["--operators", "rms_norm,launch", "--formats", "fp32", "--json"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert {row["operator"] for row in json.loads(first.stdout)} == {"rms_norm", "launch"}
    files = {path: path.read_bytes() for path in (tmp_path / "cpu").iterdir()}
    assert CliRunner().invoke(app, arguments).stdout == first.stdout
    assert {path: path.read_bytes() for path in (tmp_path / "cpu").iterdir()} == files
    assert read_device_profile(tmp_path / "cpu").header.device_type == "cpu"


def test_without_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyTorch the error says what to install, and nothing is written."""
    monkeypatch.setitem(sys.modules, "torch", None)
    done = CliRunner().invoke(app, ["profile", "device", "-o", str(tmp_path / "x"), "--device", "cpu"])
    assert done.exit_code == 2
    assert "PyTorch is not installed: pip install 'servetwin[profile]'" in done.stderr
    assert not (tmp_path / "x").exists()


def test_without_the_device(tmp_path: Path) -> None:
    """Without a GPU the error says so and what else can be measured."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (servetwin[profile])")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="sees no CUDA device here; --device cpu measures the processor"):
        open_device("cuda", PLAN)


@pytest.mark.parametrize("text", ["gpu", "cuda:x", "cuda:-1", ""])
def test_a_device_that_has_no_name(text: str) -> None:
    """A device is cuda, cuda:N or cpu."""
    with pytest.raises(InputError, match="--device must be cuda, cuda:N or cpu"):
        open_device(text, PLAN)
