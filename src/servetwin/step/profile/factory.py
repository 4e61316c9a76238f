"""The step model as a scenario names it: ``step: {model: profile, path: ...}``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.number_formats import bytes_per_element
from servetwin.core.units import GB, NS_PER_S
from servetwin.hardware.base import Device
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.parallel import Parallelism
from servetwin.llm.parts import MixtureOfExperts
from servetwin.llm.support import check_profiled
from servetwin.network.base import Collectives
from servetwin.step.base import step_models
from servetwin.step.experts.base import ExpertRouting
from servetwin.step.host import HostOverhead
from servetwin.step.profile.load import load_profile
from servetwin.step.profile.model import ProfileStepModel
from servetwin.step.profile.options import (
    ALL2ALL_BACKENDS,
    EAGER_US_PER_LAYER,
    All2AllBackend,
    ExpertSizes,
    HostIo,
    Interpolation,
    ModelSizes,
    Padding,
    ParallelismRules,
    ProfileOptions,
    Skew,
)
from servetwin.step.roofline import EXCHANGING_MULTIPROCESSORS


@step_models.register("profile")
def profile_step_model(
    path: Path,
    architecture: ModelArchitecture,
    tensor_parallel_size: int = 1,
    collectives: Collectives | None = None,
    device: Device | None = None,
    dtype: str | None = None,
    kv_cache_dtype: str | None = None,
    host: HostOverhead | None = None,
    enforce_eager: bool = False,
    interpolation: Interpolation = "default",
    skew: Skew = "longest",
    merge_prefills: bool = False,
    token_padding: Padding = "auto",
    eager_us_per_layer: float = EAGER_US_PER_LAYER,
    ranks: Parallelism | None = None,
    experts: ExpertRouting | None = None,
    parallelism: ParallelismRules = "vllm",
    all2all_backend: All2AllBackend = "allgather_reducescatter",
    host_io: Mapping[str, float] | None = None,
) -> ProfileStepModel:
    """Return the step model of a measured profile.

    Parameters
    ----------
    path
        Folder of the profile, see `load_profile`.
    architecture
        The model; its family must have the layers that the profile has.
    tensor_parallel_size, collectives
        The degree, and what an all-reduce among its ranks takes.
    device
        The accelerator, of which the memory's bandwidth bounds what the tables may say; None: not known.
    dtype, kv_cache_dtype
        Number formats of the activations and the KV cache; None: as published.
    host
        What the host adds to each step; None: what the profile says.
    enforce_eager
        Whether there are no CUDA graphs, and so no padding unless ``token_padding`` asks for one.
    ranks
        The rank's place among pipeline stages, data- and expert-parallel ranks; None: a replica without these.
    experts
        Which experts a step takes; needed by a mixture of experts.
    interpolation, skew, merge_prefills, token_padding, eager_us_per_layer, parallelism, all2all_backend
        See `ProfileOptions`.
    host_io
        ``{bandwidth_gb_per_s, latency_ns}`` of host memory through which token ids pass, see `HostIo`.

    Raises
    ------
    InputError
        If something in the profile or in an option is missing or wrong.
    """
    if not (math.isfinite(eager_us_per_layer) and eager_us_per_layer >= 0):
        raise InputError(f"eager_us_per_layer must be at least 0, got {eager_us_per_layer!r}")
    if all2all_backend not in ALL2ALL_BACKENDS:
        raise unknown_name("all2all_backend", all2all_backend, ALL2ALL_BACKENDS)
    if enforce_eager and token_padding == "auto":
        token_padding = "none"
    check_profiled(architecture)
    profile = load_profile(path, tensor_parallel_size)
    if architecture.qk_norm != ("qk_norm" in profile.dense) and not profile.not_measured.get("qk_norm"):
        has = "has no layer qk_norm" if architecture.qk_norm else "has a layer qk_norm"
        message = f"the profile (of {profile.model}) {has}, unlike {architecture.name}: it is another family's"
        raise InputError(message, where=str(path))
    return ProfileStepModel(
        profile,
        replace(
            _sizes(architecture, bytes_per_element(dtype or architecture.dtype)),
            kv_read_ns_per_token=_kv_read_ns(architecture, device, tensor_parallel_size, kv_cache_dtype),
        ),
        options=ProfileOptions(
            interpolation, skew, merge_prefills, token_padding, eager_us_per_layer, parallelism, all2all_backend
        ),
        collectives=collectives,
        host=host,
        host_io=_host_io(host_io),
        ranks=ranks,
        experts=experts,
        overlap_slowdown=_overlap_slowdown(device, all2all_backend),
    )


def _kv_read_ns(
    architecture: ModelArchitecture, device: Device | None, tensor_parallel_size: int, kv_cache_dtype: str | None
) -> float:
    """Return what a rank's memory takes to deliver one token's KV of one layer; 0 for an unknown device."""
    if device is None:
        return 0.0
    per_token = architecture.kv_bytes_per_token(tensor_parallel_size, kv_cache_dtype)
    return per_token / architecture.num_hidden_layers / device.memory_bandwidth_bytes_per_s * NS_PER_S


def _overlap_slowdown(device: Device | None, all2all_backend: str) -> float:
    """Return how much longer computing takes while DeepEP's high-throughput kernels hold their multiprocessors."""
    cores = (device.multiprocessors if device else None) or 0
    if all2all_backend != "deepep_high_throughput" or cores <= EXCHANGING_MULTIPROCESSORS:
        return 1.0
    return cores / (cores - EXCHANGING_MULTIPROCESSORS)


def _sizes(architecture: ModelArchitecture, element_bytes: int) -> ModelSizes:
    mlp, hidden = architecture.layer_sequence[0].mlp, architecture.hidden_size
    experts = None
    if isinstance(mlp, MixtureOfExperts):
        experts = ExpertSizes(mlp.num_experts, mlp.top_k, hidden, mlp.intermediate_size)
    window = architecture.attention.window
    return ModelSizes(architecture.num_hidden_layers, hidden, element_bytes, experts, window)


def _host_io(options: Mapping[str, float] | None) -> HostIo | None:
    if options is None:
        return None
    known = ("bandwidth_gb_per_s", "latency_ns")
    for name in options:
        if name not in known:
            raise unknown_name("key", name, known, where="host_io")
    if "bandwidth_gb_per_s" not in options:
        raise InputError("bandwidth_gb_per_s is missing", where="host_io")
    return HostIo(options["bandwidth_gb_per_s"] * GB, options.get("latency_ns", 0.0))
