"""The ``workload:`` of a scenario: a built-in kind, a plug-in's, or (from Python) a workload or a source of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator

from servetwin.core.errors import InputError
from servetwin.scenario.base import PluginOptions, describe
from servetwin.scenario.factories import make
from servetwin.workload.base import Workload, WorkloadSource, workload_sources
from servetwin.workload.options import (
    BuiltInOptions,
    ClaudeCodeOptions,
    CsvOptions,
    LssJsonlOptions,
    MooncakeOptions,
    SyntheticOptions,
    WorkloadOptions,
)

BUILT_IN_OPTIONS = {
    "claude_code": ClaudeCodeOptions,
    "csv": CsvOptions,
    "lss_jsonl": LssJsonlOptions,
    "mooncake": MooncakeOptions,
    "synthetic": SyntheticOptions,
}


class PluginWorkload(PluginOptions):
    """A workload source that a plug-in registered; further keys are its options."""

    kind: str


def _read(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, Workload | PluginWorkload) or callable(getattr(value, "build", None)):
        return value
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if isinstance(kind, str) and kind not in BUILT_IN_OPTIONS and kind in workload_sources.names():
        return PluginWorkload.model_validate(value)
    return handler(value)


def _plain(value: Any) -> object:
    return value.model_dump(mode="json", exclude_none=True) if isinstance(value, BaseModel) else describe(value)


WorkloadField: TypeAlias = Annotated[WorkloadOptions, WrapValidator(_read), PlainSerializer(_plain, when_used="json")]
"""What a scenario's ``workload`` may be; after reading, what `build_workload` takes."""


def build_workload(
    field: BuiltInOptions | PluginWorkload | WorkloadSource | Workload,
    seed: int,
    folder: Path,
) -> Workload:
    """Return the requests.

    Parameters
    ----------
    field
        A scenario's ``workload``.
    seed
        Of the scenario.
    folder
        From which relative paths count.
    """
    if isinstance(field, Workload):
        return field
    if isinstance(field, PluginWorkload):
        factory = workload_sources.get(field.kind, where="workload.kind")
        source = make(factory, field.extra, {"folder": lambda: folder}, "workload", ["kind"])
    elif isinstance(field, BuiltInOptions):
        source = field.at(folder).source()
    else:
        source = field
    try:
        return source.build(seed)
    except InputError as error:
        raise error if error.where else InputError(str(error), where="workload") from None
