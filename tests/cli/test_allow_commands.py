"""``--allow-commands``: no external command runs unless the user says so."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from cli_helpers import Command

EXAMPLES = Path(__file__).parents[2] / "examples"

SCENARIO = """\
model: meta-llama/Llama-3.1-8B
cluster:
  - name: acme
    hardware: {device: acme-npu/device-with-command.yaml}
workload: {kind: synthetic, requests: 5, arrivals: {kind: poisson, rate_per_s: 5}, prompt_tokens: 50, output_tokens: 5}
"""


@pytest.fixture
def asking(servetwin: Command) -> Command:
    """Return the command line in a folder whose scenario names a device that asks a command."""
    shutil.copytree(EXAMPLES / "acme-npu", "acme-npu")
    Path("acme.yaml").write_text(SCENARIO, encoding="utf-8")
    return servetwin


@pytest.mark.parametrize(
    "arguments",
    [["run", "acme.yaml"], ["check", "acme.yaml"], ["sweep", "acme.yaml", "--vary", "cluster.acme.replicas=1"]],
)
def test_commands_run_only_with_the_option(asking: Command, arguments: list[str]) -> None:
    """Without it the command, its folder and the option are named, and nothing has run; with it all is well."""
    Path("acme-npu/operator_times.py").write_text("open('ran', 'w')\n", encoding="utf-8")
    refused = asking(*arguments)
    assert refused.code == 2
    assert "python3 operator_times.py" in refused.err
    assert "--allow-commands" in refused.err
    assert not Path("acme-npu/ran").exists()
    shutil.copy(EXAMPLES / "acme-npu" / "operator_times.py", "acme-npu/operator_times.py")
    assert asking(*arguments, "--allow-commands").code == 0


def test_a_command_that_fails_ends_the_run_cleanly(asking: Command) -> None:
    """Exit code 2, what it was asked and what it said, no traceback, no run directory."""
    Path("acme-npu/operator_times.py").write_text("raise SystemExit('no licence')\n", encoding="utf-8")
    done = asking("run", "acme.yaml", "--allow-commands")
    assert done.code == 2
    assert "failed with exit code 1" in done.err
    assert '"operator": "' in done.err
    assert "no licence" in done.err
    assert "Traceback" not in done.err
    assert not Path("runs").exists()


def test_a_changed_table_is_another_scenario(asking: Command) -> None:
    """A sweep that goes on does not take results of a device's older table."""
    Path("acme.yaml").write_text(SCENARIO.replace("-with-command", ""), encoding="utf-8")
    sweep = ["sweep", "acme.yaml", "--vary", "cluster.acme.replicas=1", "-o", "sweep"]
    hashes = []
    for factor in ("1", "9"):
        table = Path("acme-npu/operators.csv")
        table.write_text(
            table.read_text(encoding="utf-8").replace("lm_head,1,,", f"lm_head,1,,{factor}"), encoding="utf-8"
        )
        assert asking(*sweep).code == 0
        with Path("sweep/sweep.csv").open(encoding="utf-8", newline="") as file:
            hashes.append(next(csv.DictReader(file))["scenario_hash"])
    assert hashes[0] != hashes[1]
