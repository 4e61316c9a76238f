"""``placement: auto``: which layers, experts or KV leave the accelerators, so that steps are short and memory fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from servetwin.core.errors import InputError
from servetwin.core.units import GIB
from servetwin.memory.weights import local_experts
from servetwin.scenario.hardware import Replica
from servetwin.scenario.parallel import stages_of
from servetwin.scenario.placement import layers_named, memory_devices
from servetwin.scenario.placement_options import ExpertPlacementOptions, KvPlacementOptions, PlacementOptions
from servetwin.scenario.step_models import step_model_of
from servetwin.step.base import StepShape


class Plan(NamedTuple):
    """A placement that fits, and what its step takes."""

    step_ns: int
    placement: PlacementOptions | None
    words: str


def with_placement(replica: Replica) -> Replica:
    """Return the replica with the placement that ``auto`` stands for, asked of its step model; others as they are.

    Candidates: everything stays; layers on one memory device, or on all of them in proportion to their rates; routed
    experts on one device, with as many cached as fit; a part of all keys and values on one device. Of each kind the
    fewest bytes leave with which the KV of ``decodes`` requests of ``context_tokens`` has room. The one with the
    shortest step of these decodes wins.

    Raises
    ------
    InputError
        If nothing fits (with both figures), or there is no memory device.
    """
    options = replica.pool.placement
    if options is None or options.kind != "auto":
        return replica
    where = f"{replica.where}.placement"
    if not memory_devices(replica):
        raise InputError("placement: auto needs memory devices; give hardware.memory", where=where)
    if replica.engine.num_gpu_blocks_override is not None:
        message = "placement: auto works out the KV blocks; leave engine.num_gpu_blocks_override out"
        raise InputError(message, where=where)
    plans = [plan for plan in (_fitting(replica, options, family) for family in _families(replica, options)) if plan]
    if not plans:
        raise InputError(_nothing_fits(replica, options), where=where)
    best = min(plans, key=lambda plan: plan.step_ns)
    return _placed(replica, best.placement, _words(replica, options, plans, best))


Candidate = tuple[PlacementOptions | None, str]


def _families(replica: Replica, options: PlacementOptions) -> Iterator[list[Candidate]]:
    """Yield families of placements, each from the fewest bytes that leave to the most."""
    yield [(None, "all weights stay")]
    layers, devices = replica.model.num_hidden_layers, memory_devices(replica)
    for name in devices:
        yield [
            (_changed(options, layers={name: count}), f"{count} of {layers} layers on {name}")
            for count in range(1, layers + 1)
        ]
    if len(devices) > 1:
        yield [_over_all(replica, options, count) for count in range(2, layers + 1)]
    for name in devices:
        yield [
            (
                _changed(options, kv=KvPlacementOptions(device=name, share=percent / 100)),
                f"{percent} % of keys and values on {name}",
            )
            for percent in range(5, 100, 5)
        ]
    held = local_experts(replica.model, replica.ranks)
    for name in devices if held else ():
        yield [
            (
                _changed(options, experts=ExpertPlacementOptions(device=name, cached=cached, eviction="lfu")),
                f"routed experts on {name}, {cached} of {held} per layer cached",
            )
            for cached in range(held - 1, -1, -1)
        ]


def _over_all(replica: Replica, options: PlacementOptions, count: int) -> Candidate:
    """Return ``count`` layers, spread over all devices so that each is as busy as the others."""
    devices = memory_devices(replica)
    total = replica.model.num_hidden_layers
    chosen = layers_named(count, total, {}, "placement")
    busy = dict.fromkeys(devices, 0.0)
    where: dict[str, list[int]] = {name: [] for name in devices}
    for index in chosen:
        name = min(devices, key=lambda other: busy[other] + 1.0 / devices[other].rate_bytes_per_s)
        busy[name] += 1.0 / devices[name].rate_bytes_per_s
        where[name].append(index)
    layers: dict[str, int | str] = {name: ",".join(map(str, numbers)) for name, numbers in where.items() if numbers}
    words = ", ".join(f"{len(numbers)} on {name}" for name, numbers in where.items() if numbers)
    return _changed(options, layers=layers), f"{count} of {total} layers elsewhere ({words})"


def _changed(options: PlacementOptions, **changes: object) -> PlacementOptions:
    return options.model_copy(update={"kind": "given", **changes})


def _placed(replica: Replica, placement: PlacementOptions | None, words: tuple[str, ...] = ()) -> Replica:
    pool = replica.pool.model_copy(update={"placement": placement})
    return replace(replica, pool=pool, chosen=words)


def _fitting(replica: Replica, options: PlacementOptions, family: list[Candidate]) -> Plan | None:
    """Return the first of a family that fits: what fits goes on fitting when more leaves, until a device is full."""
    low, high = 0, len(family) - 1
    if not _fits(replica, options, family[high][0]) and len(family) > 1:
        return next((_plan(replica, options, item) for item in family if _fits(replica, options, item[0])), None)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(replica, options, family[middle][0]) else (middle + 1, high)
    return _plan(replica, options, family[low]) if _fits(replica, options, family[low][0]) else None


def _fits(replica: Replica, options: PlacementOptions, placement: PlacementOptions | None) -> bool:
    placed = _placed(replica, placement)
    try:
        room = (placed.num_gpu_blocks - 1) * replica.engine.block_size
        return room >= options.decodes * options.context_tokens
    except InputError:
        return False


def _plan(replica: Replica, options: PlacementOptions, candidate: Candidate) -> Plan:
    return Plan(step_ns(_placed(replica, candidate[0]), options), *candidate)


def step_ns(replica: Replica, options: PlacementOptions) -> int:
    """Return what the step that ``auto`` has to make short takes, all pipeline stages one after the other."""
    n, context = options.decodes, options.context_tokens
    shape = StepShape(n, n * context, (), context, context)
    return sum(step_model_of(stage).duration_ns(shape) for stage in stages_of(replica))


def _words(replica: Replica, options: PlacementOptions, plans: list[Plan], best: Plan) -> tuple[str, ...]:
    step = f"a step of {options.decodes} decodes of {options.context_tokens} tokens"
    home_ns = step_ns(_placed(replica, None), options)
    said = f"placement auto: {best.words}; {step} takes {best.step_ns / 1e6:.2f} ms"
    if best.placement is None:
        return (f"{said}; memory suffices, so nothing leaves",)
    said += f" ({home_ns / 1e6:.2f} ms were all weights on the accelerators, which does not fit)"
    needed = best.placement.model_copy(update={"prefetch": 0})
    late_ns = step_ns(_placed(replica, needed), options)
    if late_ns > best.step_ns:
        said += f"; loading ahead gains {late_ns / best.step_ns - 1:.0%} over loading when needed"
    others = sorted((plan for plan in plans if plan is not best), key=lambda plan: plan.step_ns)
    for other in others[:1]:
        more = other.step_ns / best.step_ns - 1
        said += f"; next best: {other.words}, {other.step_ns / 1e6:.2f} ms ({more:+.0%})"
    return (said,)


def _nothing_fits(replica: Replica, options: PlacementOptions) -> str:
    model = replica.model
    weights = replica.weight_bytes / GIB
    devices = memory_devices(replica).values()
    held = sum(device.capacity_bytes for device in devices) / GIB
    own = replica.device.memory_bytes * replica.engine.accelerators_per_rank / GIB
    needed = options.decodes * options.context_tokens * replica.kv_bytes_per_block / replica.engine.block_size / GIB
    return (
        f"no placement of {model.name} fits: weights are {weights:.1f} GiB, the KV of {options.decodes} requests of "
        f"{options.context_tokens} tokens {needed:.1f} GiB; the accelerators have {own:.1f} GiB, memory devices "
        f"{held:.1f} GiB. Tried: layers on each device and over all, a part "
        f"of KV{', routed experts' if model.is_moe else ''}; ask for "
        "fewer decodes or context_tokens, or give larger devices"
    )
