"""Cluster files of LLMServingSim, both dialects, read strictly (FORMATS of the reference data, sections 2 and 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

from servetwin.core.errors import InputError
from servetwin.scenario.importers.llmservingsim.placement import CxlMemory, LssPlacement, read_cxl, read_placement
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
    tensor_parallel_size, pipeline_parallel_size
        Accelerators that share each layer, and stages.
    expert_parallel_size
        ``ep_size``: accelerators that share the experts, over the whole ``dp_group``; None: LSS's default.
    dp_group
        Name of the lockstep group that it belongs to.
    role
        ``pd_type``; None: both.
    node
        Number of its node.
    memory_gib, memory_bandwidth_gb_per_s, memory_utilization
        ``npu_mem.mem_size`` (LSS's GB are 2**30 bytes), ``mem_bw`` (whole) and ``mem_util``, None where absent.
    overrides
        The runtime settings that the instance states itself, by LSS's names, without ``npu_mem.mem_util``.
    host_memory_gib, pim_config
        ``cpu_mem.mem_size`` and ``cpu_mem.pim_config`` of the instance's node.
    memory_latency_ns
        ``npu_mem.mem_latency``.
    placement
        Where its weights lie.
    """

    where: str
    model_name: str
    hardware: str
    tensor_parallel_size: int
    pipeline_parallel_size: int
    expert_parallel_size: int | None
    dp_group: str | None
    role: Literal["prefill", "decode"] | None
    node: int
    memory_gib: float
    memory_bandwidth_gb_per_s: int
    memory_utilization: float | None
    overrides: Mapping[str, int | bool | str] = field(default_factory=dict)
    host_memory_gib: float = 0.0
    pim_config: str | None = None
    memory_latency_ns: int = 0
    placement: LssPlacement = field(default_factory=LssPlacement)


@dataclass(frozen=True)
class LssCluster:
    """A cluster file, checked.

    Attributes
    ----------
    legacy
        Whether it is in the older dialect (``npu_num``, ``npu_group``), which has defaults of its own.
    dimensions
        Accelerators along each dimension of LSS's network, innermost first.
    link_bandwidths_gib_per_s, link_latencies_ns
        Of the links of each dimension.
    host_bandwidth_gb_per_s, host_latency_ns
        ``cpu_mem`` of the first node, cut to whole numbers: LSS uses it for the whole cluster.
    local_bandwidth_gb_per_s
        ``npu_mem.mem_bw`` of the last node's first instance, cut likewise: LSS adds up collectives at this rate.
    power
        Each node's ``power`` object, None where a node has none.
    pim_config
        ``cpu_mem.pim_config`` of the first node; its bandwidth and latency stand for those of ``cpu_mem``.
    cxl
        ``cxl_mem``, None where it is absent.
    """

    path: Path
    legacy: bool
    dimensions: tuple[int, ...]
    link_bandwidths_gib_per_s: tuple[float, ...]
    link_latencies_ns: tuple[float, ...]
    host_bandwidth_gb_per_s: int
    host_latency_ns: int
    local_bandwidth_gb_per_s: int
    instances: tuple[LssInstance, ...]
    power: tuple[Mapping[str, object] | None, ...]
    pim_config: str | None = None
    cxl: CxlMemory | None = None


def read_cluster(path: Path) -> LssCluster:
    """Return the cluster that ``path`` describes.

    Raises
    ------
    InputError
        If the file is wrong (unknown keys, counts that disagree, values out of range), or asks for something that
        is not modelled yet; the message names the key's path.
    """
    top = ObjectReader(load_json_object(path), str(path), top=True)
    cxl = read_cxl(top)
    nodes = [ObjectReader(item, where) for where, item in top.objects("nodes")]
    _check_count(top, "num_nodes", "nodes", len(nodes))
    instances: list[LssInstance] = []
    legacy: set[bool] = set()
    local_bandwidth = 0
    for number, node in enumerate(nodes):
        first = len(instances)
        size, pim_config = _read_pim(node)
        for item in _node_instances(node):
            instance, is_legacy = _read_instance(item, number, cxl)
            instances.append(replace(instance, host_memory_gib=size, pim_config=pim_config))
            legacy.add(is_legacy)
        local_bandwidth = instances[first].memory_bandwidth_gb_per_s
    if len(legacy) > 1:
        raise InputError("num_npus/tp_size and npu_num/npu_group stand side by side: use one dialect", where=str(path))
    host_bandwidth, host_latency = next(iter([_read_host_memory(node) for node in nodes]))
    power = tuple(_read_power(node) for node in nodes)
    groups = dp_groups(instances)
    dimensions = _topology_dimensions(instances, groups)
    cluster = LssCluster(
        path=path,
        legacy=legacy.pop(),
        dimensions=dimensions,
        link_bandwidths_gib_per_s=_link_values(top, "link_bw", dimensions, positive=True),
        link_latencies_ns=_link_values(top, "link_latency", dimensions, positive=False),
        host_bandwidth_gb_per_s=host_bandwidth,
        host_latency_ns=host_latency,
        local_bandwidth_gb_per_s=local_bandwidth,
        instances=tuple(instances),
        power=power,
        pim_config=instances[0].pim_config,
        cxl=cxl,
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


def _read_instance(item: ObjectReader, node: int, cxl: CxlMemory | None) -> tuple[LssInstance, bool]:
    placement = read_placement(item.raw("placement"), item.path("placement"), cxl)
    legacy = "npu_num" in item or "npu_group" in item
    if legacy and ("num_npus" in item or "tp_size" in item):
        raise InputError("num_npus/tp_size and npu_num/npu_group stand side by side: use one dialect", where=item.where)
    ranks, stages = _legacy_ranks(item) if legacy else _ranks(item)
    size, bandwidth, latency, utilization = _read_npu_memory(item)
    instance = LssInstance(
        where=item.where,
        model_name=item.text("model_name"),
        hardware=item.text("hardware"),
        tensor_parallel_size=ranks,
        pipeline_parallel_size=stages,
        expert_parallel_size=item.integer("ep_size", 0, minimum=0) or None,
        dp_group=item.text("dp_group") if item.raw("dp_group") is not None else None,
        role=_role(item),
        node=node,
        memory_gib=size,
        memory_bandwidth_gb_per_s=bandwidth,
        memory_utilization=utilization,
        overrides=_read_overrides(item),
        memory_latency_ns=latency,
        placement=placement,
    )
    item.finish()
    return instance, legacy


def _role(item: ObjectReader) -> Literal["prefill", "decode"] | None:
    role = item.required("pd_type")
    if role is None or role == "prefill" or role == "decode":
        return role  # type: ignore[no-any-return]
    raise InputError(f"prefill, decode or null is allowed, found {role!r}", where=item.path("pd_type"))


def _ranks(item: ObjectReader) -> tuple[int, int]:
    """Return tensor-parallel size and stages; LSS infers what is missing of num_npus = tp_size x pp_size."""
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
    return ranks, stages


def _legacy_ranks(item: ObjectReader) -> tuple[int, int]:
    npus, groups = item.integer("npu_num", 1, minimum=1), item.integer("npu_group", 1, minimum=1)
    if npus % groups:
        raise InputError(f"npu_num {npus} is no multiple of npu_group {groups}", where=item.path("npu_num"))
    return npus // groups, groups


def _read_npu_memory(item: ObjectReader) -> tuple[float, int, int, float | None]:
    memory = ObjectReader(item.required("npu_mem"), item.path("npu_mem"))
    size = memory.number("mem_size", positive=True)
    bandwidth = memory.number("mem_bw", minimum=1)
    latency = int(memory.number("mem_latency"))
    utilization = memory.raw("mem_util")
    if utilization is not None:
        utilization = checked_utilization(utilization, memory.path("mem_util"))
    memory.finish()
    return size, int(bandwidth), latency, utilization


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


def dp_groups(instances: Sequence[LssInstance]) -> list[list[LssInstance]]:
    """Return the instances in order, those of one ``dp_group`` together, any other by itself.

    Raises
    ------
    InputError
        If members of a group differ in a degree, or others stand between them.
    """
    groups = [
        list(members)
        for _, members in groupby(instances, lambda instance: (instance.dp_group, instance.dp_group or instance.where))
    ]
    seen: set[str] = set()
    for members in groups:
        first = members[0]
        if first.dp_group is None:
            continue
        if first.dp_group in seen:
            message = f"members of dp_group {first.dp_group!r} must follow one another; others stand between them"
            raise InputError(message, where=f"{first.where}.dp_group")
        seen.add(first.dp_group)
        for other in members[1:]:
            _check_alike(first, other)
    return groups


def _check_alike(first: LssInstance, other: LssInstance) -> None:
    for name, attribute in (
        ("model_name", "model_name"),
        ("tp_size", "tensor_parallel_size"),
        ("pp_size", "pipeline_parallel_size"),
        ("ep_size", "expert_parallel_size"),
        ("pd_type", "role"),
    ):
        own, theirs = getattr(other, attribute), getattr(first, attribute)
        if own != theirs:
            message = f"{name} is {own}, but {theirs} in {first.where} of the same dp_group; members must be equal"
            raise InputError(message, where=f"{other.where}.{name}")


def _topology_dimensions(instances: Sequence[LssInstance], groups: Sequence[Sequence[LssInstance]]) -> tuple[int, ...]:
    """Return the dimensions of LSS's network, without trailing ones (FORMATS, section 2.6)."""
    group = next((members for members in groups if members[0].dp_group is not None), None)
    if group is not None:
        stages = group[0].pipeline_parallel_size
        dimensions = [group[0].tensor_parallel_size, *([stages] if stages > 1 else []), len(group)]
    else:
        npus = sum(instance.tensor_parallel_size * instance.pipeline_parallel_size for instance in instances)
        stages = sum(instance.pipeline_parallel_size for instance in instances)
        outer = len(instances) if npus == stages else stages
        dimensions = [npus // outer, outer]
    while len(dimensions) > 1 and dimensions[-1] == 1:
        del dimensions[-1]
    return tuple(dimensions)


def _link_values(top: ObjectReader, key: str, dimensions: Sequence[int], *, positive: bool) -> tuple[float, ...]:
    """Return one value per dimension of the network; a single number holds for all."""
    value = top.required(key)
    if not isinstance(value, list):
        return (checked_number(value, top.path(key), positive=positive),) * len(dimensions)
    if len(value) != len(dimensions):
        shape = " x ".join(map(str, dimensions))
        message = f"one value per dimension of the network ({shape}) is needed, found {len(value)}"
        raise InputError(message, where=top.path(key))
    return tuple(checked_number(item, f"{top.path(key)}[{i}]", positive=positive) for i, item in enumerate(value))
