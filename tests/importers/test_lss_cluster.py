"""Cluster files: both dialects, strict reading, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lss_helpers import CLUSTER, LEGACY, Deployment, cluster_with

from servetwin.core.errors import InputError
from servetwin.scenario.importers.llmservingsim.cluster import read_cluster


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, item in items for p in _paths(item, (*path, key)))]


def test_a_file_is_read_with_lss_own_units(deployment: Deployment) -> None:
    """Memory is in 2**30 bytes, links in 2**30 bytes per second, host memory in whole 10**9 bytes per second."""
    cluster = read_cluster(deployment.write(CLUSTER))
    assert (cluster.link_bandwidths_gib_per_s, cluster.link_latencies_ns) == ((16,), (20000,))
    assert (cluster.host_bandwidth_gb_per_s, cluster.local_bandwidth_gb_per_s) == (256, 1597)
    assert cluster.instances[0].memory_gib == 96
    assert not cluster.legacy


@pytest.mark.parametrize(
    ("keys", "ranks"),
    [
        ({"num_npus": 2, "tp_size": 2}, 2),
        ({"num_npus": 2, "tp_size": None}, 2),
        ({"num_npus": None, "tp_size": 2}, 2),
        ({"num_npus": None, "tp_size": None}, 1),
        (LEGACY | {"npu_num": 2}, 2),
    ],
)
def test_the_degree_is_inferred_as_lss_infers_it(deployment: Deployment, keys: dict[str, Any], ranks: int) -> None:
    """num_npus = tp_size x pp_size, one of which may be missing; npu_num / npu_group in the older dialect."""
    cluster = read_cluster(deployment.write(cluster_with(keys)))
    assert cluster.instances[0].tensor_parallel_size == ranks


def test_the_older_dialect_is_recognised_and_not_mixed(deployment: Deployment) -> None:
    """Its keys mark a file, and stand beside the newer ones neither in one instance nor in two."""
    assert read_cluster(deployment.write(cluster_with(LEGACY))).legacy
    with pytest.raises(InputError, match="side by side"):
        read_cluster(deployment.write(cluster_with({"npu_num": 1})))
    with pytest.raises(InputError, match="side by side"):
        read_cluster(deployment.write(cluster_with({}, LEGACY)))


@pytest.mark.parametrize(
    ("cluster", "name"),
    [
        (
            cluster_with(
                {"placement": {"default": {"kv_evict_loc": "cxl:0"}}},
                cxl_mem={"mem_size": 1, "mem_bw": 1, "mem_latency": 0},
            ),
            "kv_evict_loc",
        ),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(deployment: Deployment, cluster: dict[str, Any], name: str) -> None:
    """The message has the key and says that it is not modelled yet."""
    with pytest.raises(InputError, match=rf"{name}.*not modelled yet"):
        read_cluster(deployment.write(cluster))


def test_roles_are_read(deployment: Deployment) -> None:
    """pd_type: prefill, decode, or null for both."""
    roles = [{"pd_type": role} for role in ("prefill", "decode", None)]
    cluster = read_cluster(deployment.write(cluster_with(*roles)))
    assert [instance.role for instance in cluster.instances] == ["prefill", "decode", None]


def test_a_pim_is_read_from_the_hosts_memory(deployment: Deployment) -> None:
    """Each instance has the name and the size of its node's; the first node's counts for the cluster."""
    data = cluster_with()
    data["nodes"][0]["cpu_mem"] = data["nodes"][0]["cpu_mem"] | {"pim_config": "DDR4"}
    cluster = read_cluster(deployment.write(data))
    assert (cluster.pim_config, cluster.instances[0].pim_config) == ("DDR4", "DDR4")
    assert cluster.instances[0].host_memory_gib == 512


def test_a_placement_that_moves_nothing_is_accepted(deployment: Deployment) -> None:
    """LSS's defaults written out change nothing."""
    home = {"weights": "npu", "kv_loc": "npu", "kv_evict_loc": "cpu"}
    placement = {"default": home, "blocks": [{"blocks": "0-3", **home}], "layers": {"lm_head": home}}
    assert read_cluster(deployment.write(cluster_with({"placement": placement})))


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (cluster_with(num_nodes=2), "num_nodes is 2, but nodes has 1"),
        (cluster_with({"max_num_sequences": 4}), "did you mean 'max_num_seqs'"),
        (cluster_with(link_bandwidth=3), "unknown key 'link_bandwidth'"),
        (cluster_with({"npu_mem": {"mem_size": -1, "mem_bw": 1, "mem_latency": 0}}), "npu_mem.mem_size"),
        (cluster_with({"npu_mem": {"mem_size": 1, "mem_bw": 1, "mem_latency": 0, "mem_util": 1.5}}), "at most 1"),
        (cluster_with({"dtype": "fp16"}), "unknown value 'fp16'"),
        (cluster_with({"pd_type": "both"}), "prefill, decode or null"),
        (cluster_with({"num_npus": 3, "tp_size": 2}), "tp_size x pp_size is 2 x 1"),
        (cluster_with({"model_name": ""}), "model_name"),
        (cluster_with(link_bw=[1, 2]), "one value per dimension"),
        (cluster_with({"block_size": 0}), "at least 1"),
        (cluster_with({"enable_prefix_caching": "yes"}), "true or false"),
    ],
)
def test_mistakes_name_the_key(deployment: Deployment, cluster: dict[str, Any], message: str) -> None:
    """Counts that disagree, unknown keys, values out of range: each says which key and what is allowed."""
    with pytest.raises(InputError) as caught:
        read_cluster(deployment.write(cluster))
    assert message in str(caught.value)
    assert "cluster.json" in str(caught.value)


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    """As does one that is no object, and NaN."""
    path = tmp_path / "c.json"
    for text, message in (("{\n\n,}", "c.json:3"), ("[]", "object is needed"), ('{"num_nodes": NaN}', "NaN")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_cluster(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_cluster(tmp_path / "absent.json")


@given(data=st.data())
def test_any_damage_is_read_or_refused_but_never_crashes(data: st.DataObject, tmp_path_factory: Any) -> None:
    """One value of a valid file replaced by anything gives a cluster or an InputError."""
    path = data.draw(st.sampled_from([path for path in _paths(CLUSTER) if path]))
    scalars = st.none() | st.booleans() | st.integers(-2, 10**12) | st.floats(allow_nan=False) | st.text(max_size=5)
    value = data.draw(
        scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=3), scalars, max_size=3)
    )
    damaged = json.loads(json.dumps(CLUSTER))
    place = damaged
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = tmp_path_factory.getbasetemp() / "damaged.json"
    file.write_text(json.dumps(damaged), encoding="utf-8")
    refusal = None
    try:
        read_cluster(file)
    except InputError as error:
        refusal = str(error)
    assert refusal is None or "damaged.json" in refusal
