"""Operator mapping: which class of operators runs on the accelerator, in memory that computes, or on the host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast, get_args

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.fields import read_document

Resource = Literal["accelerator", "pim", "host"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)

OperatorClass = Literal["attention_decode", "attention_prefill", "gemm", "experts", "norms", "elementwise"]
CLASSES: tuple[OperatorClass, ...] = get_args(OperatorClass)

PRODUCTS: tuple[OperatorClass, ...] = ("attention_decode", "attention_prefill", "gemm", "experts")
"""Classes that multipliers in memory compute; they have no units for the others."""

AUTO = "auto"
"""Where a class goes is chosen by predicted time."""

FIXED = (
    "host",
    "host_io",
    "launches",
    "attention_launch",
    "all_reduce",
    "logits_gather",
    "send",
    "dispatch",
    "combine",
)
"""Parts of a step that belong to no class: they stay where they are."""

_ELEMENTWISE = ("embedding", "rotary_emb", "act_fn", "sampler", "top_k")


def operator_class(part: str) -> OperatorClass | None:
    """Return the class of a part of a step's breakdown; None for collectives, launches and the host."""
    if part in FIXED or part.endswith("_all_reduce"):
        return None
    if part in ("attention", "attention_decode", "attention_prefill"):
        return "attention_prefill" if part == "attention_prefill" else "attention_decode"
    if part.startswith("shared_experts."):
        part = part.removeprefix("shared_experts.")
    elif part.startswith("experts") or part == "moe":
        return "experts"
    if "norm" in part:
        return "norms"
    return "elementwise" if part in _ELEMENTWISE else "gemm"


def read_mapping(given: Mapping[str, str] | str | None, folder: Path) -> dict[OperatorClass, str]:
    """Return where each class goes: a resource, or ``auto`` (the default).

    Parameters
    ----------
    given
        A mapping of classes to resources; one place for all; ``{"path": FILE}`` of a YAML or JSON file with such a
        mapping; None: all ``auto``.
    folder
        From which a relative path counts.

    Raises
    ------
    InputError
        For an unknown class or resource, with the nearest match.
    """
    where = "mapping"
    if isinstance(given, str):
        given = dict.fromkeys(CLASSES, given)
    if given is not None and "path" in given:
        if len(given) > 1:
            raise InputError("a path and classes stand side by side; give one of them", where=where)
        file = folder / given["path"]
        document = read_document(file)
        if not isinstance(document, Mapping):
            raise InputError("a mapping of operator classes to places is needed", where=str(file))
        given, where = document, str(file)
    places: dict[OperatorClass, str] = dict.fromkeys(CLASSES, AUTO)
    for name, place in (given or {}).items():
        if name not in CLASSES:
            raise unknown_name("operator class", name, CLASSES, where=where)
        if place not in (*RESOURCES, AUTO):
            raise unknown_name("place", place, (*RESOURCES, AUTO), where=f"{where}.{name}")
        places[name] = place
    return places


def chosen(
    wanted: Mapping[OperatorClass, str], times_ns: Mapping[OperatorClass, Mapping[Resource, float]]
) -> dict[OperatorClass, Resource]:
    """Return where each class goes, the fastest place where ``auto`` is wanted (of equals the accelerator).

    Parameters
    ----------
    wanted
        See `read_mapping`.
    times_ns
        Predicted times by class and place; only places that there are.

    Raises
    ------
    InputError
        If a place is wanted that the scenario does not have.
    """
    places: dict[OperatorClass, Resource] = {}
    for name in CLASSES:
        times, place = times_ns[name], wanted[name]
        if place == AUTO:
            places[name] = min(times, key=lambda resource: (times[resource], RESOURCES.index(resource)))
        elif place not in times:
            why = "the scenario names no host_device" if place == "host" else "memory has no units for it"
            if place == "pim" and name in PRODUCTS:
                why = "only a memory with a closed form computes it"
            raise InputError(f"given {place!r}: {why}; it can run on {', '.join(times)}", where=f"mapping.{name}")
        else:
            places[name] = cast(Resource, place)
    return places
