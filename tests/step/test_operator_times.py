"""Operator times from outside: tables, and a command that is asked, fails, hangs or answers nonsense."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.hardware import load_device
from servetwin.llm import load_model
from servetwin.llm.operators import operators
from servetwin.step.base import StepShape
from servetwin.step.operator_times import (
    OperatorCommand,
    OperatorCommandError,
    OperatorStepModel,
    operator_step_model,
    read_operator_tables,
)
from servetwin.step.operator_times.base import OPERATORS
from servetwin.step.roofline import RooflineStepModel
from servetwin.testing.step_models import StepModelConformance

EXAMPLE = Path(__file__).parents[2] / "examples" / "acme-npu"
LLAMA_8B = load_model("meta-llama/Llama-3.1-8B")
ACME = load_device(EXAMPLE / "device.yaml")
ASKED = load_device(EXAMPLE / "device-with-command.yaml")

ANSWER = "import json, sys; q = json.load(sys.stdin); "


def asked(code: str, tmp_path: Path, **options: Any) -> OperatorCommand:
    """Return a command that runs a line of Python."""
    return OperatorCommand((sys.executable, "-c", ANSWER + code), tmp_path, **options)


class TestConformance(StepModelConformance):
    """The model of the example keeps the contract of step models."""

    model = operator_step_model(LLAMA_8B, ACME, Path())

    def make(self) -> OperatorStepModel:
        """Return one model, so that its memory of earlier shapes is tested too."""
        return self.model


class TestConformanceWhenEager(TestConformance):
    """So it does where the host launches every kernel, and only some operators are known."""

    model = operator_step_model(
        LLAMA_8B, ASKED, Path(), allow_commands=True, enforce_eager=True,
    )  # fmt: skip


def test_tables_stand_in_place_of_the_roofline() -> None:
    """A product takes what its row says, times its layers; what no table knows comes from the roofline."""
    model, roofline = operator_step_model(LLAMA_8B, ACME, Path()), RooflineStepModel(LLAMA_8B, ACME)
    shape = StepShape(16, 16 * 1024, ((112, 0),))
    parts = model.breakdown_ns(shape)
    rows = {
        line.split(",")[0]: line for line in (EXAMPLE / "operators.csv").read_text().splitlines() if ",128,," in line
    }
    assert parts["qkv_proj"] == pytest.approx(32 * float(rows["qkv_proj"].split(",")[3]) * 1000)
    assert parts["layernorm"] == roofline.breakdown_ns(shape)["layernorm"]
    assert parts["attention_launch"] == 0
    assert "attention_prefill" in model.known_operators()
    assert model.notices == []


def test_every_operator_of_every_kind_of_model_can_be_named() -> None:
    """The names that a table may have are those that models have."""
    names = {"attention_decode", "attention_prefill"}
    for model in ("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-30B-A3B", "deepseek-ai/DeepSeek-V3"):
        names |= {op.name for op in operators(load_model(model)) if op.name != "attention"}
    assert names <= OPERATORS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("operator,rows,time_us\nqkv_prj,1,2\n", "t.csv:2: unknown operator 'qkv_prj'; did you mean 'qkv_proj'"),
        ("operator,rows,time_us\nqkv_proj,1,-2\n", "t.csv:2: time_us must be a number above 0, found '-2'"),
        ("operator,rows,time_us\nqkv_proj,1.5,2\n", "rows must be a whole number"),
        ("operator,rows,time_us\nqkv_proj,1,2\nqkv_proj,1,3\n", "a second time for 1 rows"),
        ("operator,rows\nqkv_proj,1\n", "column 'time_us' is missing"),
        ("operator,rows,time_us,note\nqkv_proj,1,2,x\n", "unknown column 'note'"),
        ("operator,rows,time_us\nattention_decode,1,2\n", "context_tokens is missing"),
        ("operator,rows,time_us,context_tokens\no_proj,1,2,5\n", "context_tokens is for attention_decode"),
        ("operator,rows,time_us,model\no_proj,1,2,other\n", "no row for meta-llama/Llama-3.1-8B on 1 accel.*has other"),
        (
            "operator,rows,context_tokens,time_us\nattention_decode,1,0,2\nattention_decode,2,64,2\n",
            "no time for rows 1, context_tokens 64",
        ),
    ],
)
def test_wrong_tables_say_where(tmp_path: Path, text: str, message: str) -> None:
    """File, line, what was found and what is allowed."""
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_operator_tables([path], LLAMA_8B.name, 1)


@given(st.text(max_size=300))
def test_any_text_is_a_table_or_is_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Nothing but an InputError comes out of a file that is none."""
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_bytes(("operator,rows,time_us\n" + text).encode("utf-8", "replace"))
    try:
        read_operator_tables([path], LLAMA_8B.name, 1)
    except InputError:
        return


def test_a_command_is_asked_once_per_operator() -> None:
    """And its answers are interpolated; the example's command agrees with the example's table on its products."""
    model = operator_step_model(LLAMA_8B, ASKED, Path(), allow_commands=True)
    table = operator_step_model(LLAMA_8B, ACME, Path())
    shape = StepShape(64, 64 * 512)
    for name in ("qkv_proj", "down_proj", "lm_head", "attention_decode"):
        assert model.breakdown_ns(shape)[name] == pytest.approx(table.breakdown_ns(shape)[name], rel=0.02), name
    assert "operator layernorm: the command knows no time; the roofline counts" in model.notices
    began = time.perf_counter()
    for n in range(1, 50):
        model.duration_ns(StepShape(n, n * 100))
    assert time.perf_counter() - began < 1.0


def test_no_command_runs_unless_it_is_allowed() -> None:
    """The error names the command, its folder and the option."""
    with pytest.raises(InputError, match=r"python3 operator_times.py.*acme-npu.*--allow-commands"):
        operator_step_model(LLAMA_8B, ASKED, Path())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('out of licences', file=sys.stderr); sys.exit(3)", "failed with exit code 3"),
        ("print('hello')", r"something else than a JSON object"),
        ("print('[1, 2]')", r"something else than a JSON object"),
        ("print(json.dumps({'time_us': [1.0]}))", r"one time per point \(2\)"),
        ("print(json.dumps({'time_us': [1.0, -1]}))", "answered -1, which is no time"),
        ("print('{\"time_us\": [1.0, NaN]}')", "answered nan, which is no time"),
        ("print('{\"time_us\": [1e30, 1]}')", "answered 1e\\+30, which is no time"),
        ("print('{\"time_us\": [true, 1]}')", "answered True, which is no time"),
    ],
)
def test_a_command_that_fails_or_answers_nonsense_is_shown(tmp_path: Path, code: str, message: str) -> None:
    """With its input, and its output or its messages."""
    with pytest.raises(OperatorCommandError, match=message) as caught:
        asked(code, tmp_path).ask({"operator": "qkv_proj", "points": [{"rows": 1}, {"rows": 2}]})
    assert '"operator": "qkv_proj"' in str(caught.value)
    assert "its output: " in str(caught.value)
    assert ("out of licences" in str(caught.value)) == ("licences" in code)


def test_a_command_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    """Within its timeout, though a grandchild holds its output open."""
    code = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    began = time.perf_counter()
    with pytest.raises(OperatorCommandError, match=r"has not answered within 0.5 s"):
        asked(code, tmp_path, timeout_s=0.5).ask({"points": []})
    assert time.perf_counter() - began < 10


def test_a_command_that_does_not_exist_is_shown(tmp_path: Path) -> None:
    """It cannot be started."""
    with pytest.raises(OperatorCommandError, match="no-such-program cannot be started: No such file"):
        OperatorCommand(("no-such-program",), tmp_path).ask({"points": []})


def test_answers_are_kept_where_the_user_says(tmp_path: Path) -> None:
    """The second time the same question is answered from the folder; another question is asked."""
    code = "open('asked', 'a').write('x'); print(json.dumps({'time_us': [1.5] * len(q['points'])}))"
    for _ in range(2):
        assert asked(code, tmp_path, cache=tmp_path / "kept").ask({"points": [1, 2]}) == [1.5, 1.5]
    assert (tmp_path / "asked").read_text() == "x"
    assert asked(code, tmp_path, cache=tmp_path / "kept").ask({"points": [1]}) == [1.5]
    assert (tmp_path / "asked").read_text() == "xx"


def test_times_that_no_hardware_has_are_said(tmp_path: Path) -> None:
    """A product faster than the data sheet's bandwidth gets a notice with its name."""
    (tmp_path / "t.csv").write_text("operator,rows,time_us\nlm_head,1,1\nlm_head,512,2\n", encoding="utf-8")
    model = operator_step_model(LLAMA_8B, ACME, tmp_path, operators_from={"tables": "t.csv"})
    assert model.notices == ["faster than the data sheet of Acme-NPU allows (peaks and bandwidth): lm_head"]
