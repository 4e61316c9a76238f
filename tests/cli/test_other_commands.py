"""``servetwin init``, ``list``, ``workload``, ``sweep`` and ``--version``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from cli_helpers import Command

import servetwin as package


def test_version(servetwin: Command) -> None:
    """--version prints the package's version."""
    assert servetwin("--version").out == f"servetwin {package.__version__}\n"


def test_init_writes_a_scenario_that_is_fine(servetwin: Command) -> None:
    """The commented scenario passes the check, and a file is not overwritten without --force."""
    assert servetwin("init", "first.yaml").code == 0
    assert servetwin("check", "first.yaml").code == 0
    assert servetwin("init", "first.yaml").code == 2
    assert servetwin("init", "first.yaml", "--force").code == 0


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("models", "meta-llama/Llama-3.1-8B"),
        ("hardware", "H100-SXM"),
        ("links", "nvlink4"),
        ("pim", "HBM-PIM"),
        ("routers", "least_outstanding"),
        ("schedulers", "vllm"),
        ("orderings", "priority"),
        ("step-models", "roofline"),
        ("workloads", "lss_jsonl"),
        ("collectives", "ring"),
    ],
)
def test_list(servetwin: Command, kind: str, name: str) -> None:
    """Each list has its built-in names, as text and as JSON."""
    assert any(line.startswith(f"{name} ") for line in servetwin("list", kind).out.splitlines())
    rows = json.loads(servetwin("list", kind, "--json").out)
    found = [row["name"] for row in rows]
    assert name in found
    assert len(set(found)) == len(found)


def test_list_hardware_shows_the_key_facts(servetwin: Command) -> None:
    """Memory as reported, bandwidth, power, links and dense peaks of a device stand in the list."""
    rows = {row["name"]: row for row in json.loads(servetwin("list", "hardware", "--json").out)}
    assert rows["RTX4090"] == {
        "name": "RTX4090",
        "vendor": "NVIDIA",
        "memory_gib": 24.0,
        "bandwidth_gb_per_s": 1008,
        "idle_w": 16.0,
        "limit_w": 450.0,
        "scale_up": None,
        "pcie": "pcie_gen4 32 GB/s",
        "launch": "cuda_graph",
        "peak_dense_tflops": {
            **{"fp32": 82.6, "tf32": 82.6, "bf16": 165.2, "fp16": 165.2},
            **{"fp8": 330.3, "int8": 660.6, "int4": 1321.2},
        },
    }


def test_workload_writes_what_the_scenario_would_run(servetwin: Command) -> None:
    """A workload as a file gives the same summary as the scenario that it was drawn from."""
    assert servetwin("workload", "s.yaml", "-o", "w.jsonl").code == 0
    assert servetwin("workload", "s.yaml", "-o", "w.jsonl").code == 2
    drawn = json.loads(servetwin("run", "s.yaml", "--no-report", "--json").out)
    read = json.loads(
        servetwin("run", "s.yaml", "--no-report", "--json", "--set", "workload={kind: lss_jsonl, path: w.jsonl}").out
    )
    for key in ("tokens", "steps", "ttft_s", "e2e_s"):
        assert drawn[key] == read[key]


def test_workload_alone_is_a_spec(servetwin: Command) -> None:
    """What stands below ``workload:`` may be a file of its own, and its mistakes have its lines."""
    Path("w.yaml").write_text("kind: synthetic\nrequests: 3\narrivals: {kind: constant, rate_per_s: 1}\n"
                              "prompt_tokens: 5\noutput_tokens: 2\nseed: 4\n")  # fmt: skip
    assert servetwin("workload", "w.yaml", "-o", "w.jsonl").code == 0
    assert len(Path("w.jsonl").read_text().splitlines()) == 3
    Path("w.yaml").write_text("kind: synthetic\nrequests: 3\narrivals: {kind: constant, rate: 1}\n")
    assert "w.yaml:3: workload.arrivals.rate: unknown key 'rate'" in servetwin("workload", "w.yaml", "-o", "x").err


def rows_of(path: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def test_sweep_writes_a_row_per_point_and_a_picture(servetwin: Command) -> None:
    """All combinations are there, in order, with results that differ, and the picture needs no network."""
    vary = ["--vary", "cluster.chat.replicas=1,3", "--vary", "workload.arrivals.rate_per_s=10,1000"]
    done = servetwin("sweep", "s.yaml", *vary)
    assert done.code == 0
    rows = rows_of("runs/s-sweep/sweep.csv")
    points = [(row["cluster.chat.replicas"], row["workload.arrivals.rate_per_s"]) for row in rows]
    assert points == [("1", "10"), ("1", "1000"), ("3", "10"), ("3", "1000")]
    assert float(rows[3]["ttft_s.mean"]) < float(rows[1]["ttft_s.mean"])
    page = Path("runs/s-sweep/sweep.html").read_text()
    assert "cluster.chat.replicas" in page
    assert 'src="http' not in page


def test_sweep_points_equal_runs(servetwin: Command) -> None:
    """A point of a sweep, --set included, has the numbers of the run with the same values."""
    sets = ["--set", "workload.output_tokens=7"]
    servetwin("sweep", "s.yaml", "--vary", "cluster.chat.replicas=1,2", *sets)
    run = json.loads(servetwin("run", "s.yaml", "--no-report", "--json", "--set", "cluster.chat.replicas=1", *sets).out)
    row = rows_of("runs/s-sweep/sweep.csv")[0]
    assert row["scenario_hash"] == run["scenario_hash"]
    assert float(row["ttft_s.p99"]) == pytest.approx(run["ttft_s"]["p99"], rel=1e-14)


def test_sweep_as_json_has_numbers(servetwin: Command) -> None:
    """--json prints one object per point: the varied values and the results as what they are, no texts of them."""
    done = servetwin("sweep", "s.yaml", "--vary", "cluster.chat.replicas=1,2", "--vary", "router=random,load", "--json")
    rows = json.loads(done.out)
    assert [(row["cluster.chat.replicas"], row["router"]) for row in rows] == [
        (1, "random"), (1, "load"), (2, "random"), (2, "load"),
    ]  # fmt: skip
    assert all(row["requests.completed"] == 40 and 0 < row["ttft_s.mean"] < 1 and row["error"] == "" for row in rows)


@pytest.mark.parametrize(
    "vary", [["cluster.chat.replicas="], ["cluster.chat.replicas=1,x"], ["nonsense=1"], ["seed"], ["seed=1", "seed=2"]]
)
def test_sweep_refuses_what_is_wrong_before_it_runs(servetwin: Command, vary: list[str]) -> None:
    """A wrong path or value ends with exit code 2, and no point is simulated."""
    done = servetwin("sweep", "s.yaml", *(part for text in vary for part in ("--vary", text)))
    assert done.code == 2
    assert "--vary" in done.err or "nonsense" in done.err
    assert not Path("runs/s-sweep/sweep.csv").exists()


def test_list_without_a_kind_lists_the_kinds(servetwin: Command) -> None:
    """Each of them can be listed."""
    rows = json.loads(servetwin("list", "--json").out)
    assert {"models", "hardware", "topologies", "execution-plans"} <= {row["kind"] for row in rows}
    assert all(servetwin("list", row["kind"]).code == 0 for row in rows)
