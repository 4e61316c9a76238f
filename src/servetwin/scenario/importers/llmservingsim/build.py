"""A cluster file, a workload and run flags of LLMServingSim as a scenario of servetwin."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from servetwin.core.errors import InputError
from servetwin.core.units import GB, GIB
from servetwin.hardware.catalogue import load_device
from servetwin.hardware.pim_ini import PimIni, read_pim_ini
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.catalogue import load_model
from servetwin.llm.parallel import Parallelism
from servetwin.llm.parts import MixtureOfExperts
from servetwin.llm.support import check_profiled
from servetwin.memory import ProfilingStep, kv_capacity, lss_kv_capacity
from servetwin.scenario.importers.llmservingsim.cluster import LssCluster, LssInstance, dp_groups, read_cluster
from servetwin.scenario.importers.llmservingsim.flags import ROUTERS, LssFlags, check_flags
from servetwin.scenario.importers.llmservingsim.pim import pim_file, pim_host_io, pim_step
from servetwin.scenario.importers.llmservingsim.placement import freed_bytes, offload_keys, placement_notices
from servetwin.scenario.importers.llmservingsim.power import imported_power
from servetwin.scenario.importers.llmservingsim.profiles import check_architecture, find_profile
from servetwin.scenario.importers.llmservingsim.settings import (
    LEGACY_ROUTING,
    MAIN_ROUTING,
    InstanceSettings,
    resolve_settings,
)

Mode = Literal["lss", "default"]

DEFAULT_UTILIZATION = 0.9
"""``--npu-memory-utilization`` where it is not given, with ``--kv-capacity auto``; ``npu_mem`` does not count then."""

EXPERT_ROUTINGS = {"BALANCED": "balanced", "RR": "round_robin", "RAND": "uniform"}
LSS_EXPERT_ROUTINGS = {"BALANCED": "lss_balanced", "RR": "lss_round_robin", "RAND": "lss_random"}
"""LSS's expert routing policies by the routing of servetwin that means the same, and by the one that does the same."""

LSS_IDLE_POLL_US = 1000
"""LLMServingSim's clock advances by this while nothing is queued (FORMATS, section 7.10)."""


@dataclass(frozen=True)
class LssSource:
    """What a scenario is made from.

    Attributes
    ----------
    cluster, workload
        The cluster file and the workload file.
    profiles
        The folder that holds ``<hardware>/<model>/...``.
    models
        The folder that holds ``<model>.json`` (Hugging Face's ``config.json``); None: the built-in catalogue.
    architectures
        The folder that holds ``<model_type>.yaml``; None: the layers that servetwin knows.
    flags
        Run flags.
    mode
        ``lss``: as LLMServingSim computes; ``default``: as servetwin does.
    step
        ``profile``: measured times of the bundle; ``roofline``: from the model's config and the device's data sheet,
        where there is no bundle.
    kv_capacity
        ``lss``: blocks by its formula; ``auto``: worked out from the device's real memory, see `kv_capacity`.
    pim_configs
        The folder that holds ``<pim_config>.ini``; None: ``pim`` beside the cluster file's folder, as in LSS.
    """

    cluster: Path
    workload: Path
    profiles: Path
    models: Path | None = None
    architectures: Path | None = None
    flags: LssFlags = field(default_factory=LssFlags)
    mode: Mode = "default"
    kv_capacity: Literal["lss", "auto"] = "lss"
    step: Literal["profile", "roofline"] = "profile"
    pim_configs: Path | None = None


@dataclass(frozen=True)
class ImportedScenario:
    """A scenario as plain data, ready to be written as YAML.

    ``notices``: what a reader should know about it.
    """

    data: dict[str, Any]
    notices: list[str]


def import_scenario(source: LssSource, folder: Path) -> ImportedScenario:
    """Return the scenario; paths in it are relative to ``folder``, where it will stand.

    Raises
    ------
    InputError
        For anything wrong in the files or flags, and for what is not modelled yet (by name).
    """
    notices = check_flags(source.flags)
    if source.step == "roofline" and source.mode == "lss":
        raise InputError("LLMServingSim has no roofline: --mode lss needs --step profile", where="--step")
    cluster = read_cluster(source.cluster)
    if not source.workload.is_file():
        raise InputError("no such file", where=str(source.workload))
    builder = _Builder(source, cluster, folder)
    pools = builder.pools()
    routing = source.flags.request_routing_policy or (LEGACY_ROUTING if cluster.legacy else MAIN_ROUTING)
    data: dict[str, Any] = {
        "cluster": pools,
        "router": {"policy": ROUTERS[routing]},
        "workload": {"kind": "lss_jsonl", "path": builder.relative(source.workload)},
    }
    if any(instance.role for instance in cluster.instances):
        data["disaggregation"] = builder.disaggregation(ROUTERS[routing])
    if source.flags.num_reqs:
        data["workload"]["limit"] = source.flags.num_reqs
    if source.flags.log_interval is not None:
        data["output"] = {"interval_s": source.flags.log_interval}
    power, said = imported_power(source.cluster, pools, source.mode, builder.memories)
    return ImportedScenario(data | power, notices + said + _legacy_notices(cluster) + placement_notices(cluster))


def _legacy_notices(cluster: LssCluster) -> list[str]:
    if not cluster.legacy:
        return []
    return [
        "older dialect (npu_num, npu_group): unlimited max_num_seqs, all memory usable, RR routing and no prefix "
        "caching, unless a flag says otherwise"
    ]


class _Builder:
    """Turns instances into pools: a ``dp_group`` is one replica of several ranks; equal neighbours become one pool."""

    def __init__(self, source: LssSource, cluster: LssCluster, folder: Path) -> None:
        self._source = source
        self._cluster = cluster
        self._folder = folder
        self.memories: dict[int, PimIni] = {}
        """Memory that computes, by the number of its node."""

    def relative(self, path: Path) -> str:
        """Return ``path`` as seen from the scenario's folder."""
        return os.path.relpath(path, self._folder).replace(os.sep, "/")

    def disaggregation(self, router: str) -> dict[str, Any]:
        """Return how requests get from prefill to decode instances; both hops have the same routing policy."""
        if self._source.mode == "lss":
            return {"connector": "instant", "first_token": "prefill", "router": {"policy": router}}
        bandwidth = self._cluster.link_bandwidths_gib_per_s[-1] * GIB / GB
        return {"port": {"bandwidth_gb_per_s": bandwidth}, "router": {"policy": router}}

    def pools(self) -> list[dict[str, Any]]:
        """Return the pools in the order of the file."""
        groups = [
            (pool, len(list(equal)))
            for pool, equal in groupby(self._pool(members) for members in dp_groups(self._cluster.instances))
        ]
        names = ["lss"] if len(groups) == 1 else [f"lss{number}" for number in range(len(groups))]
        return [{"name": name, "replicas": count, **pool} for name, (pool, count) in zip(names, groups, strict=True)]

    def _pool(self, members: Sequence[LssInstance]) -> dict[str, Any]:
        instance = members[0]
        model, reference = self._model(instance)
        _check_experts(instance, model, len(members))
        settings = resolve_settings(
            instance,
            self._source.flags,
            legacy=self._cluster.legacy,
            context_tokens=model.max_position_embeddings,
        )
        for other in members[1:]:
            if other.overrides != instance.overrides or other.memory_gib != instance.memory_gib:
                message = "its settings or memory differ from those of the first instance of its dp_group"
                raise InputError(message, where=other.where)
        memory, placement = offload_keys(self._cluster, members, model, settings, self._source.mode)
        return {
            **({"role": instance.role} if instance.role else {}),
            "model": reference,
            "hardware": self._hardware(members) | ({"memory": memory} if memory else {}),
            "engine": self._engine(members, model, settings, placement),
            "step": self._beside_memory(self._step(members, model, settings), members, settings),
            **({"placement": placement} if placement else {}),
        }

    def _model(self, instance: LssInstance) -> tuple[ModelArchitecture, str]:
        where, models = f"{instance.where}.model_name", self._source.models
        if models is None:
            model, reference = _built_in(instance.model_name, where), instance.model_name
        else:
            path = models / f"{instance.model_name}.json"
            if not path.is_file():
                raise InputError(f"model {instance.model_name!r} has no file {path}", where=where)
            model, reference = load_model(path), self.relative(path)
        if self._source.step == "profile":
            check_profiled(model, where=instance.where)
        if self._source.architectures is not None:
            check_architecture(self._source.architectures, model)
        return model, reference

    def _hardware(self, members: Sequence[LssInstance]) -> dict[str, Any]:
        hardware: dict[str, Any] = {"device": members[0].hardware}
        cluster = self._cluster
        if self._source.mode == "default" and len(members) > 1 and len(set(cluster.link_bandwidths_gib_per_s)) > 1:
            hardware["topology"] = {"levels": _levels(cluster, members[0])}
        elif self._source.mode == "default" and _exchanges_alone(members):
            hardware["topology"] = {"levels": [{"size": len(members), "link": _link_class(members[0])}]}
        elif _accelerators(members) > 1:
            bandwidth = cluster.link_bandwidths_gib_per_s[0]
            if self._source.mode == "lss":
                hardware["link"] = {"bandwidth_gb_per_s": bandwidth, "latency_ns": self._cluster.link_latencies_ns[0]}
            else:
                hardware["link"] = {"bandwidth_gb_per_s": bandwidth * GIB / GB}
        return hardware

    def _engine(
        self,
        members: Sequence[LssInstance],
        model: ModelArchitecture,
        settings: InstanceSettings,
        placement: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        engine: dict[str, Any] = {
            "max_num_seqs": settings.max_num_seqs,
            "max_num_batched_tokens": settings.max_num_batched_tokens,
            "long_prefill_token_threshold": settings.long_prefill_token_threshold,
            "enable_chunked_prefill": settings.enable_chunked_prefill,
            "enable_prefix_caching": settings.enable_prefix_caching,
            "scheduler_reserve_full_isl": settings.scheduler_reserve_full_isl,
            "block_size": settings.block_size,
            **self._memory(members, model, settings, placement),
            **_degrees(members, model),
            "dtype": settings.dtype,
            "kv_cache_dtype": settings.kv_cache_dtype,
        }
        if self._source.mode == "lss":
            engine["idle_poll_us"] = LSS_IDLE_POLL_US
        return engine

    def _memory(
        self,
        members: Sequence[LssInstance],
        model: ModelArchitecture,
        settings: InstanceSettings,
        placement: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Return the key that decides the number of KV blocks; a model that does not fit is an error at once."""
        instance = members[0]
        dtype = None if settings.dtype == "auto" else settings.dtype
        freed = freed_bytes(placement, model, _parallelism(members, model), dtype, instance.where)
        options: dict[str, Any] = {
            "block_size": settings.block_size,
            "dtype": dtype,
            "kv_cache_dtype": None if settings.kv_cache_dtype == "auto" else settings.kv_cache_dtype,
        }
        if self._source.kv_capacity == "auto":
            return {
                "gpu_memory_utilization": self._auto_share(members, model, settings, options | {"away_bytes": freed})
            }
        capacity = lss_kv_capacity(
            model,
            instance.memory_gib,
            tensor_parallel_size=instance.tensor_parallel_size,
            pipeline_parallel_size=instance.pipeline_parallel_size,
            expert_parallel_size=expert_parallel_size(instance, model),
            mem_util=settings.memory_utilization,
            where=f"{instance.where}.npu_mem",
            away_bytes=freed,
            **options,
        )
        return {"num_gpu_blocks_override": capacity.num_blocks + 1}  # vLLM's null block, which LSS has not

    def _auto_share(
        self,
        members: Sequence[LssInstance],
        model: ModelArchitecture,
        settings: InstanceSettings,
        options: dict[str, Any],
    ) -> float:
        """Return the share of real memory that the engine takes, having seen that the model fits in it."""
        instance = members[0]
        device = load_device(instance.hardware, where=f"{instance.where}.hardware")
        limits = settings.max_num_batched_tokens, settings.max_num_seqs, model.max_position_embeddings
        share = self._source.flags.npu_memory_utilization or DEFAULT_UTILIZATION
        kv_capacity(
            model,
            device,
            parallelism=_parallelism(members, model),
            gpu_memory_utilization=share,
            step=ProfilingStep(*limits),
            where=instance.where,
            **options,
        )
        return share

    def _step(
        self, members: Sequence[LssInstance], model: ModelArchitecture, settings: InstanceSettings
    ) -> dict[str, Any]:
        instance = members[0]
        dtype = model.dtype if settings.dtype == "auto" else settings.dtype
        if self._source.step == "roofline":
            load_device(instance.hardware, where=f"{instance.where}.hardware")
            return {"model": "roofline"} | self._experts(model)
        path = find_profile(self._source.profiles, instance, dtype=dtype, kv_cache_dtype=settings.kv_cache_dtype)
        step: dict[str, Any] = {"model": "profile", "path": self.relative(path)}
        if self._source.mode == "lss":
            step |= _lss_step(self._cluster, members, model, self._source.flags)
        else:
            step |= self._experts(model)
        return step

    def _beside_memory(
        self, step: dict[str, Any], members: Sequence[LssInstance], settings: InstanceSettings
    ) -> dict[str, Any]:
        """Return the step, with attention in memory where that is asked for."""
        if settings.attn_offloading:
            self.memories[members[0].node] = read_pim_ini(pim_file(self._source, members[0]))
        if "host_io" in step and self._cluster.pim_config is not None:
            step["host_io"] = pim_host_io(self._source, self._cluster)
        return pim_step(step, self._source, self._cluster, members, settings, self.relative)

    def _experts(self, model: ModelArchitecture) -> dict[str, Any]:
        policy = self._source.flags.expert_routing_policy or "BALANCED"
        return {"experts": {"routing": EXPERT_ROUTINGS[policy]}} if model.is_moe else {}


def _built_in(name: str, where: str) -> ModelArchitecture:
    try:
        return load_model(name, where=where)
    except InputError as error:
        raise InputError(f"{error}. With --models DIR the config.json of any dense model can be given") from error


OUTER_LINK = "ethernet_100g"
"""Class of the links beyond a cluster file's first dimension: a network's latency and protocols, at the file's rate."""


def _exchanges_alone(members: Sequence[LssInstance]) -> bool:
    """Return whether a group in one node exchanges tokens and nothing else.

    Its gathers and scatters take what NCCL's tables say of the device's own links. LLMServingSim's ``link_bw`` is an
    effective figure of its rings' all-reduce (16 GB/s for PCIe 5), at which gathers would take twice as long.
    """
    one_node = len({member.node for member in members}) == 1
    instance = members[0]
    alone = instance.tensor_parallel_size == instance.pipeline_parallel_size == 1
    return len(members) > 1 and one_node and alone and _link_class(instance) != OUTER_LINK


def _link_class(instance: LssInstance) -> str:
    """Return the class of the links between an instance's accelerators."""
    device = load_device(instance.hardware, where=f"{instance.where}.hardware")
    own = device.scale_up or device.pcie
    return own.link_class if own is not None else OUTER_LINK


def _levels(cluster: LssCluster, instance: LssInstance) -> list[dict[str, Any]]:
    """Return the dimensions of LLMServingSim's network as levels of a topology."""
    inner = _link_class(instance)
    return [
        {
            "size": size,
            "link": OUTER_LINK if number else inner,
            "bandwidth_gb_per_s": bandwidth * GIB / GB,
        }
        for number, (size, bandwidth) in enumerate(
            zip(cluster.dimensions, cluster.link_bandwidths_gib_per_s, strict=True)
        )
    ]


def _parallelism(members: Sequence[LssInstance], model: ModelArchitecture) -> Parallelism:
    """Return how members divide a model, as seen from the first stage."""
    instance = members[0]
    return Parallelism(
        tensor=instance.tensor_parallel_size,
        pipeline=instance.pipeline_parallel_size,
        data=len(members) if model.is_moe else 1,
        expert=expert_parallel_size(instance, model),
    )


def _accelerators(members: Sequence[LssInstance]) -> int:
    return len(members) * members[0].tensor_parallel_size * members[0].pipeline_parallel_size


def _lss_waves(cluster: LssCluster, instance: LssInstance, model: ModelArchitecture) -> dict[str, Any]:
    """Return the plan of a group: in which groups a late member joins idle, and whether experts let members meet."""
    tensor, pipeline = instance.tensor_parallel_size, instance.pipeline_parallel_size
    plan: dict[str, Any] = {"kind": "lss_waves"}
    if pipeline > 1 or (model.is_moe and tensor > 1):
        plan["late_members_join_idle"] = True
        if expert_parallel_size(instance, model) > tensor:
            plan["lead_ns"] = int(cluster.link_latencies_ns[-1])
    return plan


def expert_parallel_size(instance: LssInstance, model: ModelArchitecture) -> int:
    """Return ``ep_size``, by LSS's default where it is not stated."""
    if not model.is_moe:
        return 1
    return instance.expert_parallel_size or instance.tensor_parallel_size


def _check_experts(instance: LssInstance, model: ModelArchitecture, ranks: int) -> None:
    """Check ``ep_size`` as LLMServingSim does (FORMATS, section 2.3)."""
    size, where = expert_parallel_size(instance, model), f"{instance.where}.ep_size"
    if not model.is_moe:
        if (instance.expert_parallel_size or 1) > 1:
            raise InputError(
                f"ep_size is {instance.expert_parallel_size}, but {model.name} has no experts", where=where
            )
        return
    if size % ranks and size > 1:
        raise InputError(f"ep_size {size} is no multiple of the {ranks} members of its dp_group", where=where)
    if size > ranks * instance.tensor_parallel_size:
        most = ranks * instance.tensor_parallel_size
        raise InputError(f"ep_size {size} is more than the {most} accelerators that share a layer", where=where)
    experts = next(layer.mlp.num_experts for layer, _ in model.layers if isinstance(layer.mlp, MixtureOfExperts))
    if experts % size:
        raise InputError(f"ep_size {size} does not divide {model.name}'s {experts} experts", where=where)


def _degrees(members: Sequence[LssInstance], model: ModelArchitecture) -> dict[str, Any]:
    """Return the degrees of parallelism by vLLM's names; those of 1 are left out."""
    instance, experts = members[0], expert_parallel_size(members[0], model)
    degrees: dict[str, Any] = {"tensor_parallel_size": instance.tensor_parallel_size}
    if instance.pipeline_parallel_size > 1:
        degrees["pipeline_parallel_size"] = instance.pipeline_parallel_size
    if len(members) > 1:
        degrees["data_parallel_size"] = len(members)
    if experts > 1:
        degrees["enable_expert_parallel"] = True
        if experts != len(members) * instance.tensor_parallel_size:
            degrees["expert_parallel_size"] = experts
    return degrees


def _lss_step(
    cluster: LssCluster, members: Sequence[LssInstance], model: ModelArchitecture, flags: LssFlags
) -> dict[str, Any]:
    """Return the points in which LLMServingSim's step time differs from ours, each a key that can be taken out."""
    step: dict[str, Any] = {
        "host": {"per_step_us": 0.0, "per_request_us": 0.0},
        "interpolation": "lss",
        "skew": "lss",
        "merge_prefills": True,
        "token_padding": "none",
        "host_io": {"bandwidth_gb_per_s": cluster.host_bandwidth_gb_per_s, "latency_ns": cluster.host_latency_ns},
    }
    if members[0].pipeline_parallel_size > 1 or model.is_moe:
        step["parallelism"] = "lss"
    if _accelerators(members) > 1:
        step["collective"] = {
            "kind": "lss_ring",
            "memory_bandwidth_bytes_per_s": cluster.local_bandwidth_gb_per_s * GB,
        }
        if len(set(cluster.link_bandwidths_gib_per_s)) > 1 or len(members) > 1:
            step["collective"]["dimensions"] = [
                {"ranks": ranks, "gb_per_s": bandwidth, "latency_ns": latency}
                for ranks, bandwidth, latency in zip(
                    cluster.dimensions,
                    cluster.link_bandwidths_gib_per_s,
                    cluster.link_latencies_ns,
                    strict=True,
                )
            ]
    if len(members) > 1:
        step["plan"] = _lss_waves(cluster, members[0], model)
    if model.is_moe:
        step["experts"] = {"routing": LSS_EXPERT_ROUTINGS[flags.expert_routing_policy or "BALANCED"]}
    return step
