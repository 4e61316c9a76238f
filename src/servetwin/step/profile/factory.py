"""The step model as a scenario names it: ``step: {model: profile, path: ...}``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.number_formats import bytes_per_element
from servetwin.core.units import GB
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.support import check_profiled
from servetwin.network.base import Collectives
from servetwin.step.base import step_models
from servetwin.step.host import HostOverhead
from servetwin.step.profile.load import load_profile
from servetwin.step.profile.model import ProfileStepModel
from servetwin.step.profile.options import (
    EAGER_US_PER_LAYER,
    HostIo,
    Interpolation,
    ModelSizes,
    Padding,
    ProfileOptions,
    Skew,
)


@step_models.register("profile")
def profile_step_model(
    path: Path,
    architecture: ModelArchitecture,
    tensor_parallel_size: int = 1,
    collectives: Collectives | None = None,
    dtype: str | None = None,
    host: HostOverhead | None = None,
    enforce_eager: bool = False,
    interpolation: Interpolation = "default",
    skew: Skew = "longest",
    merge_prefills: bool = False,
    token_padding: Padding = "auto",
    eager_us_per_layer: float = EAGER_US_PER_LAYER,
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
    dtype
        Number format of the activations; None: as published.
    host
        What the host adds to each step; None: what the profile says.
    enforce_eager
        Whether there are no CUDA graphs, and so no padding unless ``token_padding`` asks for one.
    interpolation, skew, merge_prefills, token_padding, eager_us_per_layer
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
        ModelSizes(
            architecture.num_hidden_layers, architecture.hidden_size, bytes_per_element(dtype or architecture.dtype)
        ),
        options=ProfileOptions(interpolation, skew, merge_prefills, token_padding, eager_us_per_layer),
        collectives=collectives,
        host=host,
        host_io=_host_io(host_io),
    )


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
