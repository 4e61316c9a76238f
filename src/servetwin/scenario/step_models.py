"""Makes a pool's step model from its name and options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import servetwin.network.collectives
import servetwin.step  # noqa: F401  (these imports register what is built in)
from servetwin.core.errors import InputError
from servetwin.network.base import Collectives, collectives
from servetwin.scenario.factories import make
from servetwin.scenario.hardware import Replica
from servetwin.scenario.schema import StepOptions
from servetwin.scenario.wording import in_plain_words
from servetwin.step.base import StepModel, step_models
from servetwin.step.host import HOSTS, NO_HOST_OVERHEAD, HostOverhead

__all__ = ["CONTEXT", "build_step_model", "step_models"]

CONTEXT: dict[str, Callable[[Replica, Callable[..., StepModel]], Any]] = {
    "architecture": lambda replica, _: replica.model,
    "device": lambda replica, _: replica.device,
    "device_name": lambda replica, _: replica.hardware.device,
    "link": lambda replica, _: replica.link,
    "collectives": lambda replica, _: _collectives(replica),
    "tensor_parallel_size": lambda replica, _: replica.engine.tensor_parallel_size,
    "dtype": lambda replica, _: replica.dtype,
    "kv_cache_dtype": lambda replica, _: replica.kv_cache_dtype,
    "enforce_eager": lambda replica, _: replica.engine.enforce_eager,
    "path": lambda replica, _: _path(replica),
    "host": lambda replica, factory: _host(replica, factory),
    "folder": lambda replica, _: replica.folder,
    "allow_commands": lambda replica, _: replica.allow_commands,
    "find_device": lambda replica, _: lambda: replica.device,
    "kv_bytes": lambda replica, _: lambda: (replica.num_gpu_blocks - 1) * replica.kv_bytes_per_block,
    "base_model": lambda replica, _: _base_model(replica),
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
    options, where = replica.pool.step, f"{replica.where}.step"
    if not isinstance(options.model, str):
        given: StepModel = options.model
        return given
    name = "operators" if options.model == "roofline" and _brings_times(replica) else options.model
    factory = step_models.get(name, where=f"{where}.model")
    context = {name: partial(find, replica, factory) for name, find in CONTEXT.items()}
    _refuse_unused(replica, factory)
    return make(factory, options.extra, context, where, type(options).model_fields)


def _brings_times(replica: Replica) -> bool:
    """Return whether the device's file names tables or a command that know its operators' times."""
    return replica.pool.hardware is not None and replica.device.operators is not None


def _base_model(replica: Replica) -> StepModel:
    """Return the step model that stands under ``base`` (of the accelerator, where another is beside it)."""
    given, where = replica.pool.step.extra.get("base", "roofline"), f"{replica.where}.step.base"
    try:
        options = StepOptions.model_validate(given if isinstance(given, dict) else {"model": given})
    except ValidationError as error:
        raise InputError(in_plain_words(error.errors(include_url=False)[0]), where=where) from None
    return build_step_model(replace(replica, pool=replica.pool.model_copy(update={"step": options})))


def _refuse_unused(replica: Replica, factory: Callable[..., StepModel]) -> None:
    """Refuse settings that the step model would not look at."""
    options, where = replica.pool.step, f"{replica.where}.step"
    parameters = inspect.signature(factory).parameters
    for key, given in (("path", options.path is not None), ("host", bool(options.host.model_dump(exclude_none=True)))):
        if given and key not in parameters:
            raise InputError(f"the step model {options.model!r} has no {key}; leave it out", where=f"{where}.{key}")


def _collectives(replica: Replica) -> Collectives | None:
    """Return the cost of collectives among the ranks; None for a single one."""
    options, where = replica.pool.step.collective, f"{replica.where}.step.collective"
    if replica.link is None:
        return None
    if not isinstance(options.kind, str):
        given: Collectives = options.kind
        return given
    link = replica.link
    factory = collectives.get(options.kind, where=f"{where}.kind")
    return make(factory, options.extra, {"link": lambda: link}, where, type(options).model_fields)


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
