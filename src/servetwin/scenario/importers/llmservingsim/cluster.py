"""Cluster files of LLMServingSim, both dialects, read strictly (FORMATS of the reference data, sections 2 and 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from servetwin.core.errors import InputError
from servetwin.scenario.importers.llmservingsim.refusals import check_placement, not_modelled
from servetwin.scenario.importers.reader import ObjectReader, checked_number, load_json_object

DTYPES = ("float16", "bfloat16", "float32", "fp8", "int8")
KV_CACHE_DTYPES = ("auto", "fp8")

_WHOLE_OVERRIDES = {
    "max_num_seqs": 0,
    "max_num_batched_tokens": 0,
    "long_prefill_token_threshold": 0,
    "block_size": 1,
}
_SWITCH_OVERRIDES = (
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "reserve_full_isl",
    "enable_local_offloading",
    "enable_attn_offloading",
    "enable_sub_batch_interleaving",
    "enable_block_copy",
)


@dataclass(frozen=True)
class LssInstance:
    """One instance of a cluster file.

    Attributes
    ----------
    where
        Its place in the file, for messages.
    tensor_parallel_size
        Accelerators of the instance (pipeline stages are refused).
    memory_gib, memory_bandwidth_gb_per_s, memory_utilization
        ``npu_mem.mem_size`` (LSS's GB are 2**30 bytes), ``mem_bw`` (whole) and ``mem_util``, None where absent.
    overrides
        The runtime settings that the instance states itself, by LSS's names, without ``npu_mem.mem_util``.
    host_memory_gib, pim_config
        ``cpu_mem.mem_size`` and ``cpu_mem.pim_config`` of the instance's node.
    """

    where: str
    model_name: str
    hardware: str
    tensor_parallel_size: int
    memory_gib: float
    memory_bandwidth_gb_per_s: int
    memory_utilization: float | None
    overrides: Mapping[str, int | bool | str] = field(default_factory=dict)
    host_memory_gib: float = 0.0
    pim_config: str | None = None


@dataclass(frozen=True)
class LssCluster:
    """A cluster file, checked.

    Attributes
    ----------
    legacy
        Whether it is in the older dialect (``npu_num``, ``npu_group``), which has defaults of its own.
    link_bandwidth_gib_per_s, link_latency_ns
        Of the link over which the ranks of one instance talk (dimension 0 of LSS's topology).
    host_bandwidth_gb_per_s, host_latency_ns
        ``cpu_mem`` of the first node, cut to whole numbers: LSS uses it for the whole cluster.
    local_bandwidth_gb_per_s
        ``npu_mem.mem_bw`` of the last node's first instance, cut likewise: LSS adds up collectives at this rate.
    power
        Each node's ``power`` object, None where a node has none.
    pim_config
        ``cpu_mem.pim_config`` of the first node; its bandwidth and latency stand for those of ``cpu_mem``.
    """

    path: Path
    legacy: bool
    link_bandwidth_gib_per_s: float
    link_latency_ns: float
    host_bandwidth_gb_per_s: int
    host_latency_ns: int
    local_bandwidth_gb_per_s: int
    instances: tuple[LssInstance, ...]
    power: tuple[Mapping[str, object] | None, ...]
    pim_config: str | None = None


def read_cluster(path: Path) -> LssCluster:
    """Return the cluster that ``path`` describes.

    Raises
    ------
    InputError
        If the file is wrong (unknown keys, counts that disagree, values out of range), or asks for something that
        is not modelled yet; the message names the key's path.
    """
    top = ObjectReader(load_json_object(path), str(path), top=True)
    if top.raw("cxl_mem") is not None:
        raise not_modelled(top.path("cxl_mem"), "cxl_mem", "memory tiers")
    nodes = [ObjectReader(item, where) for where, item in top.objects("nodes")]
    _check_count(top, "num_nodes", "nodes", len(nodes))
    instances: list[LssInstance] = []
    legacy: set[bool] = set()
    local_bandwidth = 0
    for node in nodes:
        first = len(instances)
        size, pim_config = _read_pim(node)
        for item in _node_instances(node):
            instance, is_legacy = _read_instance(item)
            instances.append(replace(instance, host_memory_gib=size, pim_config=pim_config))
            legacy.add(is_legacy)
        local_bandwidth = instances[first].memory_bandwidth_gb_per_s
    if len(legacy) > 1:
        raise InputError("num_npus/tp_size and npu_num/npu_group stand side by side: use one dialect", where=str(path))
    host_bandwidth, host_latency = next(iter([_read_host_memory(node) for node in nodes]))
    power = tuple(_read_power(node) for node in nodes)
    dimensions = _topology_dimensions(instances)
    cluster = LssCluster(
        path=path,
        legacy=legacy.pop(),
        link_bandwidth_gib_per_s=_link_value(top, "link_bw", dimensions, positive=True),
        link_latency_ns=_link_value(top, "link_latency", dimensions, positive=False),
        host_bandwidth_gb_per_s=host_bandwidth,
        host_latency_ns=host_latency,
        local_bandwidth_gb_per_s=local_bandwidth,
        instances=tuple(instances),
        power=power,
        pim_config=instances[0].pim_config,
    )
    for reader in (*nodes, top):
        reader.finish()
    return cluster


def _check_count(reader: ObjectReader, count_key: str, list_key: str, found: int) -> None:
    stated = reader.integer(count_key, minimum=1)
    if stated != found:
        raise InputError(f"{count_key} is {stated}, but {list_key} has {found} items", where=reader.path(count_key))


def _node_instances(node: ObjectReader) -> list[ObjectReader]:
    items = [ObjectReader(item, where) for where, item in node.objects("instances")]
    _check_count(node, "num_instances", "instances", len(items))
    return items


def _read_host_memory(node: ObjectReader) -> tuple[int, int]:
    memory = ObjectReader(node.required("cpu_mem"), node.path("cpu_mem"))
    memory.raw("pim_config")
    memory.number("mem_size", positive=True)
    bandwidth, latency = memory.number("mem_bw", minimum=1), memory.number("mem_latency")
    memory.finish()
    return int(bandwidth), int(latency)


def _read_pim(node: ObjectReader) -> tuple[float, str | None]:
    """Return the size of a node's host memory, and the name of its PIM file."""
    memory = ObjectReader(node.required("cpu_mem"), node.path("cpu_mem"))
    name = memory.text("pim_config") if memory.raw("pim_config") is not None else None
    return memory.number("mem_size", positive=True), name


def _read_power(node: ObjectReader) -> Mapping[str, object] | None:
    power = node.raw("power")
    if power is not None and not isinstance(power, dict):
        raise InputError(f"an object is needed, found {power!r}", where=node.path("power"))
    return power


def _read_instance(item: ObjectReader) -> tuple[LssInstance, bool]:
    _refuse_roles(item)
    legacy = "npu_num" in item or "npu_group" in item
    if legacy and ("num_npus" in item or "tp_size" in item):
        raise InputError("num_npus/tp_size and npu_num/npu_group stand side by side: use one dialect", where=item.where)
    ranks = _legacy_ranks(item) if legacy else _ranks(item)
    size, bandwidth, utilization = _read_npu_memory(item)
    instance = LssInstance(
        where=item.where,
        model_name=item.text("model_name"),
        hardware=item.text("hardware"),
        tensor_parallel_size=ranks,
        memory_gib=size,
        memory_bandwidth_gb_per_s=bandwidth,
        memory_utilization=utilization,
        overrides=_read_overrides(item),
    )
    item.finish()
    return instance, legacy


def _refuse_roles(item: ObjectReader) -> None:
    role = item.required("pd_type")
    if role is not None:
        if role not in ("prefill", "decode"):
            raise InputError(f"prefill, decode or null is allowed, found {role!r}", where=item.path("pd_type"))
        raise not_modelled(item.path("pd_type"), f"pd_type {role!r}", "prefill/decode disaggregation")
    if item.raw("dp_group") is not None:
        raise not_modelled(item.path("dp_group"), "dp_group", "lockstep groups")
    if item.integer("ep_size", 1, minimum=1) > 1:
        raise not_modelled(item.path("ep_size"), "ep_size above 1", "expert parallelism")
    check_placement(item.raw("placement"), item.path("placement"))


def _ranks(item: ObjectReader) -> int:
    """Return the tensor-parallel size; LSS infers what is missing of num_npus = tp_size x pp_size."""
    stages = item.integer("pp_size", 1, minimum=1)
    npus = item.integer("num_npus", 0, minimum=0) or None
    ranks = item.integer("tp_size", 0, minimum=0) or None
    if ranks is None:
        ranks = 1 if npus is None else npus // stages
    if npus is not None and npus != ranks * stages:
        if stages > 1 or npus % ranks:
            message = f"num_npus is {npus}, but tp_size x pp_size is {ranks} x {stages}"
            raise InputError(message, where=item.path("num_npus"))
        stages = npus // ranks
    if stages > 1:
        raise not_modelled(item.path("pp_size"), f"pp_size {stages}", "pipeline parallelism")
    return ranks


def _legacy_ranks(item: ObjectReader) -> int:
    npus, groups = item.integer("npu_num", 1, minimum=1), item.integer("npu_group", 1, minimum=1)
    if npus % groups:
        raise InputError(f"npu_num {npus} is no multiple of npu_group {groups}", where=item.path("npu_num"))
    if groups > 1:
        raise not_modelled(item.path("npu_group"), f"npu_group {groups}", "pipeline parallelism")
    return npus


def _read_npu_memory(item: ObjectReader) -> tuple[float, int, float | None]:
    memory = ObjectReader(item.required("npu_mem"), item.path("npu_mem"))
    size = memory.number("mem_size", positive=True)
    bandwidth = memory.number("mem_bw", minimum=1)
    memory.number("mem_latency")
    utilization = memory.raw("mem_util")
    if utilization is not None:
        utilization = checked_utilization(utilization, memory.path("mem_util"))
    memory.finish()
    return size, int(bandwidth), utilization


def checked_utilization(value: object, where: str) -> float:
    """Return a share of memory above 0 and at most 1."""
    share = checked_number(value, where, positive=True)
    if share > 1:
        raise InputError(f"a number above 0 and at most 1 is needed, found {value!r}", where=where)
    return share


def _read_overrides(item: ObjectReader) -> dict[str, int | bool | str]:
    overrides: dict[str, int | bool | str] = {}
    for key, minimum in _WHOLE_OVERRIDES.items():
        if item.raw(key) is not None:
            overrides[key] = item.integer(key, minimum=minimum)
    for key in _SWITCH_OVERRIDES:
        value = item.flag(key)
        if value is not None:
            overrides[key] = value
    for key, allowed in (("dtype", DTYPES), ("kv_cache_dtype", KV_CACHE_DTYPES)):
        choice = item.choice(key, allowed)
        if choice is not None:
            overrides[key] = choice
    return overrides


def _topology_dimensions(instances: list[LssInstance]) -> int:
    """Return how many dimensions LSS's network has: [ranks per instance, instances] without trailing ones."""
    return 2 if len(instances) > 1 else 1


def _link_value(top: ObjectReader, key: str, dimensions: int, *, positive: bool) -> float:
    value = top.required(key)
    if not isinstance(value, list):
        return checked_number(value, top.path(key), positive=positive)
    if len(value) != dimensions:
        message = f"one value per dimension of the network is needed ({dimensions}), found {len(value)}"
        raise InputError(message, where=top.path(key))
    numbers = [checked_number(item, f"{top.path(key)}[{i}]", positive=positive) for i, item in enumerate(value)]
    return numbers[0]
