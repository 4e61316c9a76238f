"""Makes a pool's step model from its name and options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import servetwin.step
import servetwin.step.experts  # noqa: F401  (these imports register what is built in)
from servetwin.core.errors import InputError
from servetwin.scenario.collectives import collective_notices, collectives_of
from servetwin.scenario.factories import make
from servetwin.scenario.hardware import Replica
from servetwin.scenario.parallel import Stage
from servetwin.scenario.schema import StepOptions
from servetwin.scenario.wording import in_plain_words
from servetwin.step.base import StepModel, step_models
from servetwin.step.host import HOSTS, NO_HOST_OVERHEAD, HostOverhead

__all__ = ["CONTEXT", "build_step_model", "collectives_of", "step_model_of", "step_models"]

CONTEXT: dict[str, Callable[[Stage, Callable[..., StepModel]], Any]] = {
    "architecture": lambda stage, _: stage.model,
    "device": lambda stage, _: stage.device,
    "device_name": lambda stage, _: stage.replica.hardware.device,
    "link": lambda stage, _: stage.replica.link,
    "collectives": lambda stage, _: collectives_of(stage.replica),
    "tensor_parallel_size": lambda stage, _: stage.ranks.tensor,
    "ranks": lambda stage, _: stage.ranks,
    "experts": lambda stage, _: stage.experts,
    "all2all_backend": lambda stage, _: stage.replica.engine.all2all_backend,
    "dtype": lambda stage, _: stage.replica.dtype,
    "kv_cache_dtype": lambda stage, _: stage.replica.kv_cache_dtype,
    "enforce_eager": lambda stage, _: stage.replica.engine.enforce_eager,
    "path": lambda stage, _: _path(stage.replica),
    "host": lambda stage, factory: _host(stage.replica, factory),
    "folder": lambda stage, _: stage.replica.folder,
    "allow_commands": lambda stage, _: stage.replica.allow_commands,
    "find_device": lambda stage, _: lambda: stage.device,
    "kv_bytes": lambda stage, _: lambda: (stage.replica.num_gpu_blocks - 1) * stage.replica.kv_bytes_per_block,
    "base_model": lambda stage, _: _base_model(stage),
}
"""What a step model's factory may ask of a scenario, by the name of its parameter."""


def build_step_model(replica: Replica) -> StepModel:
    """Return the step model of a pool's replicas.

    A factory is given, by name, what it asks of `CONTEXT`; its other parameters are options of the user.

    Raises
    ------
    InputError
        For an unknown model or option, or what the model says of its data.
    """
    return step_model_of(Stage(replica, replica.ranks))


def step_model_of(stage: Stage) -> StepModel:
    """Return the step model of one pipeline stage; it is a rank model, too, if it can be taken apart."""
    model = _at_hand(stage)
    stages = stage.replica.placed_stages
    if not stages or stage.other_model is not None:
        return model
    from servetwin.step.offload.model import offloaded

    try:
        return offloaded(model, stages[stage.ranks.stage], stage.experts)
    except InputError as error:
        raise InputError(str(error), where=f"{stage.replica.where}.step.model") from None


def _at_hand(stage: Stage) -> StepModel:
    """Return the step model with all weights on the accelerator."""
    replica = stage.replica
    options, where = replica.pool.step, f"{replica.where}.step"
    if not isinstance(options.model, str):
        given: StepModel = options.model
        return given
    name = "operators" if options.model == "roofline" and _brings_times(stage) else options.model
    factory = step_models.get(name, where=f"{where}.model")
    if stage.ranks.part != "all" and not getattr(factory, "divides_layers", False):
        message = (
            f"the step model {name!r} has times of whole layers, not of attention and FFN by themselves on "
            f"{replica.hardware.device}; roofline can divide them"
        )
        raise InputError(message, where=f"{where}.model")
    context = {name: partial(find, stage, factory) for name, find in CONTEXT.items()}
    _refuse_unused(replica, factory)
    model = make(factory, options.extra, context, where, type(options).model_fields)
    if "collectives" in inspect.signature(factory).parameters:
        model.notices += collective_notices(replica)
    return model


def _brings_times(stage: Stage) -> bool:
    """Return whether the device's file names tables or a command that know its operators' times."""
    if stage.replica.pool.hardware is None or stage.device.operators is None:
        return False
    if stage.ranks.pipeline > 1 or stage.ranks.data > 1:
        message = f"{stage.device.name} brings operator times, which pipelines and data parallelism cannot use yet"
        raise InputError(message, where=f"{stage.replica.where}.engine")
    return True


def _base_model(stage: Stage) -> StepModel:
    """Return the step model that stands under ``base`` (of the accelerator, where another is beside it)."""
    replica = stage.replica
    given, where = replica.pool.step.extra.get("base", "roofline"), f"{replica.where}.step.base"
    try:
        options = StepOptions.model_validate(given if isinstance(given, dict) else {"model": given})
    except ValidationError as error:
        raise InputError(in_plain_words(error.errors(include_url=False)[0]), where=where) from None
    pool = replica.pool.model_copy(update={"step": options})
    return _at_hand(replace(stage, replica=replace(replica, pool=pool)))


def _refuse_unused(replica: Replica, factory: Callable[..., StepModel]) -> None:
    """Refuse settings that the step model would not look at."""
    options, where = replica.pool.step, f"{replica.where}.step"
    parameters = inspect.signature(factory).parameters
    for key, given in (("path", options.path is not None), ("host", bool(options.host.model_dump(exclude_none=True)))):
        if given and key not in parameters:
            raise InputError(f"the step model {options.model!r} has no {key}; leave it out", where=f"{where}.{key}")


def _path(replica: Replica) -> Path:
    path = replica.pool.step.path
    if path is None:
        message = f"the step model {replica.pool.step.model!r} needs the path of its data"
        raise InputError(message, where=f"{replica.where}.step.path")
    return replica.folder / path


def _host(replica: Replica, factory: Callable[..., StepModel]) -> HostOverhead | None:
    """Return the host overhead: as given, the step model's own where only one of its parts is, None for its default."""
    given = replica.pool.step.host.model_dump(exclude_none=True)
    default = inspect.signature(factory).parameters["host"].default
    if not given and default is None:
        return None
    own = default if isinstance(default, HostOverhead) else NO_HOST_OVERHEAD
    if default is HOSTS["vllm-0.19"] and replica.engine.async_scheduling:
        own = HOSTS["vllm-0.15"]
    return replace(own, **given)
