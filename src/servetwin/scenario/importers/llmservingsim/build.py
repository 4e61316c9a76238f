"""A cluster file, a workload and run flags of LLMServingSim as a scenario of servetwin."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from servetwin.core.errors import InputError
from servetwin.core.units import GB, GIB
from servetwin.hardware.catalogue import load_device
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.catalogue import load_model
from servetwin.llm.support import check_profiled
from servetwin.memory import ProfilingStep, kv_capacity, lss_kv_capacity
from servetwin.scenario.importers.llmservingsim.cluster import LssCluster, LssInstance, read_cluster
from servetwin.scenario.importers.llmservingsim.flags import ROUTERS, LssFlags, check_flags
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
    kv_capacity
        ``lss``: blocks by its formula; ``auto``: worked out from the device's real memory, see `kv_capacity`.
    """

    cluster: Path
    workload: Path
    profiles: Path
    models: Path | None = None
    architectures: Path | None = None
    flags: LssFlags = field(default_factory=LssFlags)
    mode: Mode = "default"
    kv_capacity: Literal["lss", "auto"] = "lss"


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
    if source.flags.num_reqs:
        data["workload"]["limit"] = source.flags.num_reqs
    if source.flags.log_interval is not None:
        data["output"] = {"interval_s": source.flags.log_interval}
    power, said = imported_power(source.cluster, pools, source.mode)
    return ImportedScenario(data | power, notices + said + _legacy_notices(cluster))


def _legacy_notices(cluster: LssCluster) -> list[str]:
    if not cluster.legacy:
        return []
    return [
        "older dialect (npu_num, npu_group): unlimited max_num_seqs, all memory usable, RR routing and no prefix "
        "caching, unless a flag says otherwise"
    ]


class _Builder:
    """Turns instances into pools; equal neighbours become replicas of one."""

    def __init__(self, source: LssSource, cluster: LssCluster, folder: Path) -> None:
        self._source = source
        self._cluster = cluster
        self._folder = folder

    def relative(self, path: Path) -> str:
        """Return ``path`` as seen from the scenario's folder."""
        return os.path.relpath(path, self._folder).replace(os.sep, "/")

    def pools(self) -> list[dict[str, Any]]:
        """Return the pools in the order of the file."""
        groups = [
            (pool, len(list(equal)))
            for pool, equal in groupby(self._pool(instance) for instance in self._cluster.instances)
        ]
        names = ["lss"] if len(groups) == 1 else [f"lss{number}" for number in range(len(groups))]
        return [{"name": name, "replicas": count, **pool} for name, (pool, count) in zip(names, groups, strict=True)]

    def _pool(self, instance: LssInstance) -> dict[str, Any]:
        model, reference = self._model(instance)
        settings = resolve_settings(
            instance,
            self._source.flags,
            legacy=self._cluster.legacy,
            context_tokens=model.max_position_embeddings,
        )
        return {
            "model": reference,
            "hardware": self._hardware(instance),
            "engine": self._engine(instance, model, settings),
            "step": self._step(instance, model, settings),
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
        check_profiled(model, where=instance.where)
        model.check_tensor_parallel_size(instance.tensor_parallel_size, where=instance.where)
        if self._source.architectures is not None:
            check_architecture(self._source.architectures, model)
        return model, reference

    def _hardware(self, instance: LssInstance) -> dict[str, Any]:
        hardware: dict[str, Any] = {"device": instance.hardware}
        if instance.tensor_parallel_size > 1:
            bandwidth = self._cluster.link_bandwidth_gib_per_s
            if self._source.mode == "lss":
                hardware["link"] = {"bandwidth_gb_per_s": bandwidth, "latency_ns": self._cluster.link_latency_ns}
            else:
                hardware["link"] = {"bandwidth_gb_per_s": bandwidth * GIB / GB}
        return hardware

    def _engine(self, instance: LssInstance, model: ModelArchitecture, settings: InstanceSettings) -> dict[str, Any]:
        engine: dict[str, Any] = {
            "max_num_seqs": settings.max_num_seqs,
            "max_num_batched_tokens": settings.max_num_batched_tokens,
            "long_prefill_token_threshold": settings.long_prefill_token_threshold,
            "enable_chunked_prefill": settings.enable_chunked_prefill,
            "enable_prefix_caching": settings.enable_prefix_caching,
            "scheduler_reserve_full_isl": settings.scheduler_reserve_full_isl,
            "block_size": settings.block_size,
            **self._memory(instance, model, settings),
            "tensor_parallel_size": instance.tensor_parallel_size,
            "dtype": settings.dtype,
            "kv_cache_dtype": settings.kv_cache_dtype,
        }
        if self._source.mode == "lss":
            engine["idle_poll_us"] = LSS_IDLE_POLL_US
        return engine

    def _memory(self, instance: LssInstance, model: ModelArchitecture, settings: InstanceSettings) -> dict[str, Any]:
        """Return the key that decides the number of KV blocks; a model that does not fit is an error at once."""
        options: dict[str, Any] = {
            "tensor_parallel_size": instance.tensor_parallel_size,
            "block_size": settings.block_size,
            "dtype": None if settings.dtype == "auto" else settings.dtype,
            "kv_cache_dtype": None if settings.kv_cache_dtype == "auto" else settings.kv_cache_dtype,
        }
        if self._source.kv_capacity == "auto":
            device = load_device(instance.hardware, where=f"{instance.where}.hardware")
            limits = settings.max_num_batched_tokens, settings.max_num_seqs, model.max_position_embeddings
            share = self._source.flags.npu_memory_utilization or DEFAULT_UTILIZATION
            options |= {"gpu_memory_utilization": share, "step": ProfilingStep(*limits)}
            kv_capacity(model, device, where=instance.where, **options)
            return {"gpu_memory_utilization": share}
        capacity = lss_kv_capacity(
            model,
            instance.memory_gib,
            mem_util=settings.memory_utilization,
            where=f"{instance.where}.npu_mem",
            **options,
        )
        return {"num_gpu_blocks_override": capacity.num_blocks + 1}  # vLLM's null block, which LSS has not

    def _step(self, instance: LssInstance, model: ModelArchitecture, settings: InstanceSettings) -> dict[str, Any]:
        dtype = model.dtype if settings.dtype == "auto" else settings.dtype
        path = find_profile(self._source.profiles, instance, dtype=dtype, kv_cache_dtype=settings.kv_cache_dtype)
        step: dict[str, Any] = {"model": "profile", "path": self.relative(path)}
        if self._source.mode == "lss":
            step |= _lss_step(self._cluster, instance)
        return step


def _built_in(name: str, where: str) -> ModelArchitecture:
    try:
        return load_model(name, where=where)
    except InputError as error:
        raise InputError(f"{error}. With --models DIR the config.json of any dense model can be given") from error


def _lss_step(cluster: LssCluster, instance: LssInstance) -> dict[str, Any]:
    """Return the points in which LLMServingSim's step time differs from ours, each a key that can be taken out."""
    step: dict[str, Any] = {
        "host": {"per_step_us": 0.0, "per_request_us": 0.0},
        "interpolation": "lss",
        "skew": "lss",
        "merge_prefills": True,
        "token_padding": "none",
        "host_io": {"bandwidth_gb_per_s": cluster.host_bandwidth_gb_per_s, "latency_ns": cluster.host_latency_ns},
    }
    if instance.tensor_parallel_size > 1:
        step["collective"] = {
            "kind": "lss_ring",
            "memory_bandwidth_bytes_per_s": cluster.local_bandwidth_gb_per_s * GB,
        }
    return step
