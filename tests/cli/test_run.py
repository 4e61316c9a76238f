"""``servetwin run`` and ``check``: files, directories, exit codes, output."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from cli_helpers import Command

FILES = {
    "requests.csv",
    "requests.parquet",
    "resolved.yaml",
    "resources.csv",
    "run.json",
    "summary.json",
    "timeline.csv",
}


def names(folder: str) -> set[str]:
    """Return the names of the files in a folder."""
    return {path.name for path in Path(folder).iterdir()}


def test_a_run_writes_its_directory(servetwin: Command) -> None:
    """The default directory is the first free ``runs/<scenario>-<n>``, and holds all files of a run."""
    for number in (1, 2):
        done = servetwin("run", "s.yaml")
        assert done.code == 0
        assert names(f"runs/s-{number}") == FILES | {"report.html"}
        assert f"report:  runs/s-{number}/report.html" in done.out.splitlines()
    assert "40 of 40 requests completed" in done.out


def test_optional_files(servetwin: Command) -> None:
    """--no-report leaves the report out, --token-times adds a row per token, and a later run removes both."""
    assert servetwin("run", "s.yaml", "-o", "out", "--no-report", "--token-times").code == 0
    assert names("out") == FILES | {"token_times.csv"}
    with Path("out/token_times.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 400
    assert servetwin("run", "s.yaml", "-o", "out", "--no-report").code == 0
    assert names("out") == FILES


def test_an_earlier_run_is_replaced_and_anything_else_is_refused(servetwin: Command) -> None:
    """A directory with a run in it is written again; another one that is not empty needs --force."""
    assert servetwin("run", "s.yaml", "-o", "out", "--no-report", "--seed", "5").code == 0
    assert servetwin("run", "s.yaml", "-o", "out", "--no-report").code == 0
    assert json.loads(Path("out/summary.json").read_text())["seed"] == 1
    Path("other").mkdir()
    Path("other/thesis.txt").write_text("precious")
    done = servetwin("run", "s.yaml", "-o", "other")
    assert done.code == 2
    assert done.err.startswith("error: other: is not empty and holds no earlier run")
    assert names("other") == {"thesis.txt"}
    assert servetwin("run", "s.yaml", "-o", "other", "--no-report", "--force").code == 0
    assert names("other") == FILES | {"thesis.txt"}
    assert servetwin("run", "s.yaml", "-o", "s.yaml").err.startswith("error: s.yaml: is a file")
    assert servetwin("run", "s.yaml", "-o", "s.yaml/x").err.startswith("error: s.yaml/x: cannot be written: s.yaml is")


def test_a_file_that_cannot_be_written_ends_with_2(servetwin: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full, say, is told by the file's name and no traceback."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "out/requests.csv")

    monkeypatch.setattr("servetwin.scenario.result.write_csv", full)
    done = servetwin("run", "s.yaml", "-o", "out")
    assert (done.code, done.err) == (2, "error: out/requests.csv: No space left on device\n")


def test_json_is_all_there_is_on_standard_output(servetwin: Command) -> None:
    """--json prints the summary that is written to the directory, and nothing else."""
    done = servetwin("run", "s.yaml", "-o", "out", "--no-report", "--json")
    assert json.loads(done.out) == json.loads(Path("out/summary.json").read_text())


def test_quiet_prints_nothing(servetwin: Command) -> None:
    """--quiet leaves only errors."""
    done = servetwin("run", "s.yaml", "-o", "out", "--no-report", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert servetwin("run", "missing.yaml", "--quiet").err == "error: missing.yaml: no such file\n"


def test_no_escape_codes_where_there_is_no_terminal(servetwin: Command) -> None:
    """What goes to a file or a pipe is plain text."""
    for arguments in (
        ["run", "s.yaml", "--no-report"],
        ["check", "s.yaml"],
        ["run", "s.yml"],
        ["--help"],
        ["run", "-x"],
    ):
        done = servetwin(*arguments)
        assert "\x1b" not in done.out + done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "missing.yaml"], "error: missing.yaml: no such file"),
        (["run", "s.yaml", "--set", "cluster.chat.replicas=0"], "error: --set cluster.chat.replicas: "),
        (["run", "s.yaml", "--set", "cluster.chta.replicas=1"], "did you mean 'chat'?"),
        (["run", "s.yaml", "--set", "router=rond_robin"], "error: --set router: router.policy: unknown router"),
        (["check", "s.yaml", "--set", "cluster.chat.step.base_ms=3"], "'base_ms'; did you mean 'base_ns'?"),
        (["check", "s.yaml", "--set", "router={policy: load, staleness: 3}"], "did you mean 'staleness_s'?"),
        (["check", "s.yaml", "--set", "workload.kind=csw"], "--set workload.kind: given 'csw': should be one of"),
        (["check", "s.yaml", "--set", "workload.arrivals.rate_per_s=1e-300"], "s.yaml:8: workload: a time of "),
        (["check", "s.yaml", "--set", "cluster.chat.step.base_ns=-3"], "must be a number of at least 0, got -3"),
        (["check", "s.yaml", "--set", "cluster.chat.step.base_ns=.nan"], "given nan: should be a finite number"),
        (["check", "s.yaml", "--set", "model=meta-llama/Llama-3.1-8C"], "did you mean 'meta-llama/Llama-3.1-8B'?"),
        (["check", "s.yaml", "--seed", "-1"], "error: --seed: seed: given -1"),
        (["check", "s.yaml", "--set", "workload={kind: csv, path: no.csv}"], "no.csv"),
        (["list", "rooters"], "did you mean 'routers'?"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_2_and_no_traceback(servetwin: Command, arguments: list[str], said: str) -> None:
    """What the user got wrong is told in one message, with exit code 2."""
    done = servetwin(*arguments)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert not Path("runs").exists()


def test_unknown_commands_and_options_end_with_2(servetwin: Command) -> None:
    """The command line's own mistakes have the same exit code."""
    assert servetwin("rum", "s.yaml").code == 2
    assert servetwin("run", "s.yaml", "--sed", "1").code == 2


def test_stuck_ends_with_3(servetwin: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that admits nobody ends the run with exit code 3, and the message says who waits for what."""
    from servetwin.engine.base import SchedulerView, StepPolicy, schedulers

    class Closed:
        def plan(self, view: SchedulerView) -> StepPolicy:
            return StepPolicy(admit=False, chunk=False)

    monkeypatch.setitem(schedulers._factories, "closed", Closed)
    done = servetwin("run", "s.yaml", "--set", "cluster.chat.engine.kind=closed")
    assert done.code == 3
    assert "40 of 40 requests can never be served" in done.err


def test_rejected_requests_are_counted_and_told(servetwin: Command) -> None:
    """A request that is longer than max_model_len is rejected with the reason, and the run is fine."""
    done = servetwin("run", "s.yaml", "-o", "out", "--no-report", "--set", "cluster.chat.engine.max_model_len=64")
    summary = json.loads(Path("out/summary.json").read_text())
    assert done.code == 0
    assert summary["requests"]["rejected"] > 0
    assert sum(summary["requests"]["by_state"].values()) == summary["requests"]["total"] == 40
    assert "max_model_len is 64" in done.out


def test_check_runs_nothing_and_tells_what_follows(servetwin: Command) -> None:
    """The check resolves blocks and lengths, as text and as JSON, and writes no file."""
    assert "40 requests" in servetwin("check", "s.yaml").out
    facts = json.loads(servetwin("check", "s.yaml", "--json").out)
    assert facts["pools"]["chat"]["kv_blocks"] == 399
    assert facts["workload"]["requests"] == 40
    assert "reject" not in servetwin("check", "s.yaml").out
    too_long = servetwin("check", "s.yaml", "--set", "cluster.chat.engine.max_model_len=20").out
    assert "note: a run will reject requests of more than 20 tokens, which no instance can serve: " in too_long
    assert not Path("runs").exists()


def test_resolved_yaml_is_a_scenario_with_all_defaults(servetwin: Command) -> None:
    """A run of ``resolved.yaml`` is the same run: relative paths still count from the first scenario's folder."""
    Path("w.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,20,5\n")
    workload = "workload={kind: csv, path: w.csv}"
    assert servetwin("run", "s.yaml", "-o", "a/b", "--no-report", "--set", workload).code == 0
    resolved = yaml.safe_load(Path("a/b/resolved.yaml").read_text())
    assert resolved["cluster"][0]["engine"]["max_num_seqs"] == 256
    assert resolved["resolved"]["pools"]["chat"]["kv_blocks"] == 399
    assert servetwin("run", "a/b/resolved.yaml", "-o", "c", "--no-report").code == 0
    assert Path("a/b/summary.json").read_bytes() == Path("c/summary.json").read_bytes()
