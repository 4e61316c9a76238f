"""The imported scenario: its parts, the points of mode lss, its files, the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lss_helpers import LEGACY, Deployment, cluster_with
from typer.testing import CliRunner

from servetwin.cli.main import app
from servetwin.core.errors import InputError
from servetwin.scenario.importers.llmservingsim import LssFlags, LssSource, import_scenario, write_scenario
from servetwin.scenario.load import load_scenario

TP2 = {"num_npus": 2, "tp_size": 2}


def test_the_scenario_is_one_that_servetwin_reads(deployment: Deployment) -> None:
    """Both modes and dialects pass the strict schema."""
    for mode in ("lss", "default"):
        for changes in ({}, TP2, LEGACY):
            data = deployment.scenario(cluster_with(changes), mode=mode)
            assert load_scenario(data, folder=deployment.folder)


def test_equal_neighbours_become_replicas(deployment: Deployment) -> None:
    """The order of instances is kept, because routers go by it."""
    data = deployment.scenario(cluster_with({}, {}, {"max_num_seqs": 8}, {}))
    assert [(pool["name"], pool["replicas"]) for pool in data["cluster"]] == [("lss0", 2), ("lss1", 1), ("lss2", 1)]


def test_each_lss_point_is_a_key_of_its_own(deployment: Deployment) -> None:
    """Everything in which mode lss differs stands in the scenario, and default mode has none of it."""
    lss = deployment.scenario(cluster_with(TP2), mode="lss")["cluster"][0]
    ours = deployment.scenario(cluster_with(TP2))["cluster"][0]
    assert lss["engine"].pop("idle_poll_us") == 1000
    assert lss["engine"] == ours["engine"]
    points = {key: value for key, value in lss["step"].items() if key not in ours["step"]}
    assert set(points) == {
        "interpolation", "skew", "merge_prefills", "token_padding", "host", "host_io",
        "collective",
    }  # fmt: skip
    assert points["host"] == {"per_step_us": 0.0, "per_request_us": 0.0}
    assert points["host_io"] == {"bandwidth_gb_per_s": 256, "latency_ns": 0}
    assert points["collective"] == {"kind": "lss_ring", "memory_bandwidth_bytes_per_s": 1597 * 10**9}


def test_links_are_converted_and_their_latency_counts_in_mode_lss_only(deployment: Deployment) -> None:
    """LSS's GB/s of a link are 2**30 bytes; its own ring takes the file's figure and converts itself."""
    assert deployment.scenario(cluster_with(TP2))["cluster"][0]["hardware"]["link"] == {
        "bandwidth_gb_per_s": 16 * 2**30 / 10**9
    }
    link = deployment.scenario(cluster_with(TP2), mode="lss")["cluster"][0]["hardware"]["link"]
    assert link == {"bandwidth_gb_per_s": 16, "latency_ns": 20000}
    assert "link" not in deployment.scenario(cluster_with())["cluster"][0]["hardware"]


def test_paths_are_relative_to_the_scenario(deployment: Deployment) -> None:
    """Nothing is copied; a scenario and its data can be moved together."""
    source = deployment.source(cluster_with())
    data = import_scenario(source, deployment.folder / "out" / "deep").data
    assert data["cluster"][0]["step"]["path"] == "../../profiles/RTXPRO6000/meta-llama/Llama-3.1-8B/bf16"
    assert data["workload"]["path"] == "../../workload.jsonl"


def test_blocks_are_those_of_lss_plus_the_null_block(deployment: Deployment) -> None:
    """Llama-3.1-8B in 96 GB at 0.9: 36,578 (FORMATS, section 3.2), and the one that vLLM keeps for itself."""
    engine = deployment.scenario(cluster_with())["cluster"][0]["engine"]
    assert engine["num_gpu_blocks_override"] == 36578 + 1


def test_other_flags_find_their_keys(deployment: Deployment) -> None:
    """Routing, number of requests and the interval of the timeline."""
    flags = LssFlags(request_routing_policy="RAND", num_reqs=7, log_interval=0.5)
    data = deployment.scenario(cluster_with(), flags)
    assert data["router"] == {"policy": "random"}
    assert data["workload"]["limit"] == 7
    assert data["output"] == {"interval_s": 0.5}
    assert "limit" not in deployment.scenario(cluster_with(), LssFlags(num_reqs=0))["workload"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hardware": "H900"}, "no profile of hardware 'H900'"),
        ({"model_name": "Qwen/Qwen3-8B"}, "there are: Qwen/Qwen3-32B, meta-llama/Llama-3.1-8B"),
        ({"model_name": "meta-llama/Llama-9"}, "unknown model"),
        ({"dtype": "float16"}, "no profile of variant 'fp16'"),
        ({"kv_cache_dtype": "fp8"}, "no profile of variant 'bf16-kvfp8'"),
        ({"num_npus": 4, "tp_size": 4}, "degrees that exist: 1, 2"),
        ({"npu_mem": {"mem_size": 8, "mem_bw": 1, "mem_latency": 0}}, "does not fit"),
    ],
)
def test_what_is_missing_is_said_at_once(deployment: Deployment, changes: dict[str, Any], message: str) -> None:
    """Not only when the scenario runs: hardware, model, variant, degree, memory, with what exists."""
    with pytest.raises(InputError) as caught:
        deployment.scenario(cluster_with(changes))
    assert message in str(caught.value)


def test_kv_capacity_auto_takes_the_devices_real_memory(deployment: Deployment) -> None:
    """The cluster file's memory does not count, the utilisation flag does; blocks are worked out when it is built."""
    small = {"npu_mem": {"mem_size": 8, "mem_bw": 1597, "mem_latency": 0, "mem_util": 0.5}}
    engine = deployment.scenario(cluster_with(small), kv_capacity="auto")["cluster"][0]["engine"]
    assert engine["gpu_memory_utilization"] == 0.9
    assert "num_gpu_blocks_override" not in engine
    flags = LssFlags(npu_memory_utilization=0.8)
    engine = deployment.scenario(cluster_with(small), flags, kv_capacity="auto")["cluster"][0]["engine"]
    assert engine["gpu_memory_utilization"] == 0.8


@pytest.mark.parametrize(
    ("flags", "message"),
    [({"npu_memory_utilization": 0.1}, "does not fit on RTXPRO6000"), ({"npu_memory_utilization": 1.0}, "at most")],
)
def test_kv_capacity_auto_says_at_once_what_does_not_fit(
    deployment: Deployment, flags: dict[str, Any], message: str
) -> None:
    """With the numbers, at import."""
    with pytest.raises(InputError, match=message):
        deployment.scenario(cluster_with(), LssFlags(**flags), kv_capacity="auto")


def test_models_and_architectures_of_the_user_are_read(deployment: Deployment) -> None:
    """A model's file is referred to by path; an architecture with unknown layers is refused."""
    with pytest.raises(InputError, match="has no file"):
        deployment.scenario(cluster_with(), models=deployment.folder)
    folder = deployment.folder / "architectures"
    folder.mkdir()
    with pytest.raises(InputError, match="no architecture 'llama'"):
        deployment.scenario(cluster_with(), architectures=folder)
    (folder / "llama.yaml").write_text("catalog: {dense: {embedding: {}}}\n", encoding="utf-8")
    assert deployment.scenario(cluster_with(), architectures=folder)
    (folder / "llama.yaml").write_text("catalog: {dense: {mamba: {}}}\n", encoding="utf-8")
    with pytest.raises(InputError, match="layer 'mamba' is not modelled"):
        deployment.scenario(cluster_with(), architectures=folder)


POWER = {
    "base_node_power": 60,
    "npu": {"RTXPRO6000": {"idle_power": 35, "standby_power": 300, "active_power": 600, "standby_duration": 18}},
    "cpu": {"idle_power": 10, "active_power": 200, "util": 0.2},
    "dram": {"dimm_size": 32, "idle_power": 2.0, "energy_per_bit": 6.0},
    "link": {"num_links": 1, "idle_power": 5, "energy_per_bit": 4.0},
    "nic": {"num_nics": 1, "idle_power": 20},
    "storage": {"num_devices": 2, "idle_power": 5},
}


def with_power(power: dict[str, Any]) -> dict[str, Any]:
    """Return a cluster file whose node has power."""
    data = cluster_with()
    data["nodes"][0]["power"] = power
    hardware = data["nodes"][0]["instances"][0]["hardware"]
    if "npu" in power:
        power["npu"] = {hardware: next(iter(power["npu"].values()))}
    return data


def test_power_keys_become_keys_of_the_scenario(deployment: Deployment) -> None:
    """Mode lss keeps LSS's own model and figures; default mode puts the figures into ours, and both build."""
    data = with_power(dict(POWER))
    lss = deployment.scenario(data, mode="lss")["power"]["lss"]["nodes"]
    assert [node["base_node_power"] for node in lss] == [60]
    ours = deployment.scenario(data)["power"]
    (device,) = ours["devices"].values()
    assert device == {"idle_w": 35.0, "standby_w": 300.0, "standby_s": 18.0, "limit_w": 600.0}
    assert ours["node"]["host"] == {"idle_w": 48.0, "per_active_accelerator_w": 95.0, "limit_w": 200.0}
    assert ours["node"]["accelerators"] == 1


def test_power_keys_that_are_missing_are_named(deployment: Deployment) -> None:
    """With the place in the cluster file."""
    with pytest.raises(InputError, match=r"nodes\[0\]\.power: key 'npu' is missing"):
        deployment.scenario(with_power({"base_node_power": 60}))


def test_an_existing_file_is_kept_without_force(deployment: Deployment) -> None:
    """And overwritten with it."""
    path = deployment.folder / "s.yaml"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="--force"):
        write_scenario(deployment.source(cluster_with()), path)
    assert path.read_text(encoding="utf-8") == "mine"
    write_scenario(deployment.source(cluster_with()), path, force=True)
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["workload"]["kind"] == "lss_jsonl"


def _command(deployment: Deployment, *options: str) -> Any:
    deployment.write(cluster_with())
    folder = deployment.folder
    files = ["--cluster", folder / "cluster.json", "--workload", folder / "workload.jsonl"]
    arguments = ["import", "llmservingsim", *files, "--profiles", folder / "profiles", "-o", folder / "s.yaml"]
    return CliRunner().invoke(app, [*map(str, arguments), *options])


def test_files_are_copied_when_asked(deployment: Deployment) -> None:
    """With ``copy`` the scenario refers to files of its own, once each, and the folder can be carried elsewhere."""
    two = cluster_with({"max_num_seqs": 4}, {"max_num_seqs": 8})
    source = LssSource(deployment.write(two), deployment.folder / "workload.jsonl", deployment.folder / "profiles")
    path = deployment.folder / "elsewhere" / "scenario.yaml"
    data = write_scenario(source, path, copy=True).data
    paths = {data["workload"]["path"], *(pool["step"]["path"] for pool in data["cluster"])}
    assert len(paths) == 2
    assert all(place.startswith("scenario-files/") and (path.parent / place).exists() for place in paths)
    assert (path.parent / data["cluster"][0]["step"]["path"] / "tp1").is_dir()


def test_the_command_writes_a_scenario(deployment: Deployment) -> None:
    """Flags by LSS's names, --num-req as well; notices on standard error."""
    result = _command(deployment, "--num-req", "3", "--no-enable-prefix-caching", "--run-id", "r", "--mode", "lss")
    assert result.exit_code == 0, result.output
    data = yaml.safe_load((deployment.folder / "s.yaml").read_text(encoding="utf-8"))
    assert data["workload"]["limit"] == 3
    assert data["cluster"][0]["engine"]["enable_prefix_caching"] is False
    assert "--run-id" in result.stderr


def test_the_command_ends_with_2_on_a_mistake(deployment: Deployment) -> None:
    """With the message and no traceback."""
    result = _command(deployment, "--prefix-storage", "CXL")
    assert result.exit_code == 2
    assert "error: --prefix-storage" in result.stderr
    assert not (deployment.folder / "s.yaml").exists()
    missing = CliRunner().invoke(app, ["import", "llmservingsim", "--profiles", "p", "-o", "s.yaml"])
    assert missing.exit_code == 2
    assert "--cluster: a file is needed" in missing.stderr


EXPECTED_REFUSALS = ("not modelled", "no profile", "mixture", "not profiled")


def _refusal(source: LssSource, folder: Path) -> str | None:
    """Return why a source is refused, or None if it gives a scenario that servetwin reads."""
    try:
        load_scenario(import_scenario(source, folder).data, folder=folder)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.measured
def test_shipped_cluster_files_import_or_name_what_is_missing(reference: Path, tmp_path: Path) -> None:
    """Every cluster file of LSS gives a scenario that servetwin reads, or an error about something expected."""
    root = reference / "llmservingsim"
    files = sorted(root.glob("configs/cluster/*.json")) + sorted(root.glob("ispass26/**/config/*.json"))
    reasons = {}
    for file in files:
        profiles = root / ("profiles-v0" if "ispass26" in str(file) else "profiles-v1")
        source = LssSource(file, root / "workloads/example_trace.jsonl", profiles, root / "configs/model")
        reasons[file.name, file.parent] = _refusal(source, tmp_path)
    assert sum(reason is None for reason in reasons.values()) >= 15
    for reason in filter(None, reasons.values()):
        assert any(expected in reason for expected in EXPECTED_REFUSALS), reason
