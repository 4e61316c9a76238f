"""LLMServingSim's placement of weights, CXL memory and local offloading, as keys of a scenario (FORMATS, 1.6, 2.5)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.units import GB, GIB
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.parallel import Parallelism
from servetwin.memory.placement import HOME, PlacedWeights
from servetwin.scenario.importers.llmservingsim.refusals import not_modelled
from servetwin.scenario.importers.reader import ObjectReader
from servetwin.scenario.placement import placement_of
from servetwin.scenario.placement_options import PlacementOptions

if TYPE_CHECKING:
    from servetwin.scenario.importers.llmservingsim.cluster import LssCluster, LssInstance
    from servetwin.scenario.importers.llmservingsim.settings import InstanceSettings

LOCAL = "npu-memory"
"""Name of an accelerator's own memory where weights are read from it through LSS's memory model."""

_KEYS = ("weights", "kv_loc", "kv_evict_loc")
_LAYERS = {
    "embedding": ("embedding",),
    "layernorm": ("layernorm",),
    "qkv_proj": ("qkv_proj",),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_up_proj",),
    "down_proj": ("down_proj",),
    "moe": ("router", "experts"),
    "final_layernorm": ("final_layernorm",),
    "lm_head": ("lm_head",),
}
_WEIGHTLESS = ("qk_norm", "rotary_emb", "attention", "act_fn", "sampler")
"""Layers that LSS knows and that have no weights, or next to none."""

_ENDS = ("embedding", "final_layernorm", "lm_head")


@dataclass(frozen=True)
class CxlMemory:
    """``cxl_mem``: devices that each serve one load after the other; figures cut to whole numbers, as LSS does."""

    size_gib: float
    bandwidth_gb_per_s: int
    latency_ns: int
    num_devices: int


@dataclass(frozen=True)
class LssPlacement:
    """Where an instance's weights lie: ``npu``, ``cpu`` or ``cxl:<n>``.

    Attributes
    ----------
    default
        Where no other rule holds.
    blocks
        Blocks and their place, in the order of the file.
    layers
        Place by layer name, before the others.
    ignored
        Rules that LSS reads and does not follow: KV elsewhere.
    """

    default: str = "npu"
    blocks: tuple[tuple[tuple[int, ...], str], ...] = ()
    layers: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @property
    def places(self) -> list[str]:
        """Every place that a rule names."""
        return [self.default, *(place for _, place in self.blocks), *self.layers.values()]

    @property
    def moves_nothing(self) -> bool:
        """Whether everything stays on the accelerator."""
        return all(place == "npu" for place in self.places)


def read_cxl(top: ObjectReader) -> CxlMemory | None:
    """Return ``cxl_mem``, None where it is absent."""
    if top.raw("cxl_mem") is None:
        return None
    memory = ObjectReader(top.raw("cxl_mem"), top.path("cxl_mem"))
    found = CxlMemory(
        memory.number("mem_size", positive=True),
        int(memory.number("mem_bw", minimum=1)),
        int(memory.number("mem_latency")),
        memory.integer("num_devices", 1, minimum=1),
    )
    memory.finish()
    return found


def read_placement(placement: object, where: str, cxl: CxlMemory | None) -> LssPlacement:
    """Return an instance's ``placement``.

    Raises
    ------
    InputError
        For an unknown key or place, blocks that are no list of numbers, a CXL device that does not exist, or a
        ``kv_evict_loc`` other than ``cpu``, which belongs to KV tiers.
    """
    if placement is None:
        return LssPlacement()
    default, ignored = "npu", []
    blocks: list[tuple[tuple[int, ...], str]] = []
    layers: dict[str, str] = {}
    for path, name, rule in _rules(placement, where):
        weights = _check_rule(rule, path, cxl, with_blocks=name is None and path.endswith("]"))
        if rule.get("kv_loc", "npu") != "npu":
            ignored.append(f"{path}.kv_loc")
        if path == f"{where}.default":
            default = weights or default
        elif name is not None:
            if name not in _LAYERS and name not in _WEIGHTLESS:
                raise unknown_name("layer", name, (*_LAYERS, *_WEIGHTLESS), where=path)
            if weights is not None and name in _LAYERS:
                layers[name] = weights
        elif weights is not None:
            blocks.append((_block_numbers(rule.get("blocks"), f"{path}.blocks"), weights))
    return LssPlacement(default, tuple(blocks), layers, tuple(ignored))


def _check_rule(rule: Mapping[str, Any], path: str, cxl: CxlMemory | None, *, with_blocks: bool) -> str | None:
    """Return a rule's place of weights, None where it names none."""
    for key, value in rule.items():
        if key == "blocks" and with_blocks:
            continue
        if key not in _KEYS:
            raise unknown_name("key", key, (*_KEYS, "blocks") if with_blocks else _KEYS, where=path)
        _check_place(value, f"{path}.{key}", cxl)
    if rule.get("kv_evict_loc", "cpu") not in ("cpu", "npu"):
        raise not_modelled(f"{path}.kv_evict_loc", f"kv_evict_loc {rule['kv_evict_loc']!r}", "KV tiers")
    place = rule.get("weights")
    return None if place is None else str(place)


def _check_place(value: object, where: str, cxl: CxlMemory | None) -> None:
    if value in ("npu", "cpu"):
        return
    match = re.fullmatch(r"cxl:(\d+)", str(value))
    if match is None:
        raise InputError(f"npu, cpu or cxl:<number> is allowed, found {value!r}", where=where)
    if cxl is None:
        raise InputError(f"{value!r} needs cxl_mem at the top of the file", where=where)
    if int(match[1]) >= cxl.num_devices:
        raise InputError(f"{value!r} does not exist: cxl_mem has num_devices {cxl.num_devices}", where=where)


def _rules(placement: object, where: str) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    """Yield each rule's path, its layer's name (None: it is for blocks, or the default), and itself."""
    for key, part in _mapping(placement, where).items():
        path = f"{where}.{key}"
        if key == "default":
            yield path, None, _mapping(part, path)
        elif key == "layers":
            for name, rule in _mapping(part, path).items():
                yield f"{path}.{name}", name, _mapping(rule, f"{path}.{name}")
        elif key == "blocks":
            if not isinstance(part, list):
                raise InputError(f"a list is needed, found {part!r}", where=path)
            for i, rule in enumerate(part):
                yield f"{path}[{i}]", None, _mapping(rule, f"{path}[{i}]")
        else:
            raise unknown_name("key", key, ("default", "blocks", "layers"), where=where)


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"an object is needed, found {value!r}", where=where)
    return value


def _block_numbers(text: object, where: str) -> tuple[int, ...]:
    found: list[int] = []
    for piece in str(text).split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", piece)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InputError(f"numbers and ranges of blocks (0-3,7) are needed, found {text!r}", where=where)
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(found)


def placement_notices(cluster: LssCluster) -> list[str]:
    """Return what a reader should know about placements."""
    ignored = [path for instance in cluster.instances for path in instance.placement.ignored]
    said = [f"ignored, as LLMServingSim does: {', '.join(ignored)} (KV stays on the accelerator)"] if ignored else []
    elsewhere = [instance for instance in cluster.instances if not instance.placement.moves_nothing]
    if len(elsewhere) > 1:
        said.append(
            "instances load weights from memory devices that LLMServingSim shares; here each has them by itself"
        )
    return said


def offload_keys(
    cluster: LssCluster,
    members: Sequence[LssInstance],
    model: ModelArchitecture,
    settings: InstanceSettings,
    mode: str,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Return ``hardware.memory`` and ``placement`` of instances, empty and None where all weights stay and nobody asks.

    In mode lss all loads are issued at a step's start, what leaves gives no room to KV and is read from the
    accelerator's memory all the same (defect 9: ``frees_memory``, ``access``); in default mode weights are copied ahead
    of their layers, and free memory. Local offloading (of profiles that leave out the reading of weights) reads the
    weights that stay from the accelerator's memory: all at once in mode lss, each by its kernel in default mode.
    """
    instance = members[0]
    given = instance.placement
    if given.moves_nothing and not settings.local_offloading:
        return [], None
    if settings.local_offloading and not given.moves_nothing and mode != "lss":
        raise not_modelled(instance.where, "enable_local_offloading with weights elsewhere", "both in default mode")
    local = LOCAL if settings.local_offloading else HOME
    names = {place: local if place == "npu" else place.replace(":", "") for place in given.places} | {"npu": local}
    placement: dict[str, Any] = {
        "layers": _layers(given, model.num_hidden_layers, names, instance.where),
        "operators": _operators(given, model, names),
    }
    if mode == "lss":
        placement |= {"at_start": True, "frees_memory": False}
    elif settings.local_offloading:
        placement |= {"access": "direct", "frees_memory": False}
    return _devices(cluster, instance, set(names.values())), placement


def _layers(given: LssPlacement, num_layers: int, names: Mapping[str, str], where: str) -> dict[str, str]:
    places = [given.default] * num_layers
    for numbers, place in given.blocks:
        for number in numbers:
            if number >= num_layers:
                message = f"block {number} does not exist: the model has blocks 0 to {num_layers - 1}"
                raise InputError(message, where=f"{where}.placement.blocks")
            places[number] = place
    found: dict[str, str] = {}
    for place in dict.fromkeys(places):
        if names[place] != HOME:
            found[names[place]] = _ranges([number for number, other in enumerate(places) if other == place])
    return found


def _ranges(numbers: Sequence[int]) -> str:
    pieces = []
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        pieces.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join(pieces)


def _operators(given: LssPlacement, model: ModelArchitecture, names: Mapping[str, str]) -> dict[str, str]:
    found = dict.fromkeys(_ENDS, names[given.default])
    for layer, place in given.layers.items():
        if (layer == "moe") > model.is_moe or (layer in ("gate_up_proj", "down_proj") and model.is_moe):
            continue  # LSS looks up layers that there are; others never come
        found |= dict.fromkeys(_LAYERS[layer], names[place])
    return {operator: name for operator, name in found.items() if name != HOME or operator not in _ENDS}


def _devices(cluster: LssCluster, instance: LssInstance, used: set[str]) -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = []
    if "cpu" in used:
        devices.append(
            {
                "name": "cpu",
                "capacity_gb": instance.host_memory_gib * GIB / GB,
                "bandwidth_gb_per_s": cluster.host_bandwidth_gb_per_s,
                "latency_ns": cluster.host_latency_ns,
            }
        )
    if cluster.cxl is not None:
        cxl = {
            "capacity_gb": cluster.cxl.size_gib * GIB / GB / cluster.cxl.num_devices,
            "bandwidth_gb_per_s": cluster.cxl.bandwidth_gb_per_s,
            "latency_ns": cluster.cxl.latency_ns,
        }
        names = [f"cxl{number}" for number in range(cluster.cxl.num_devices)]
        devices += [{"name": name} | cxl for name in names if name in used]
    if LOCAL in used:
        devices.append(
            {
                "name": LOCAL,
                "capacity_gb": instance.memory_gib * GIB / GB,
                "bandwidth_gb_per_s": instance.memory_bandwidth_gb_per_s,
                "latency_ns": instance.memory_latency_ns,
                "shared": False,
                "queue": False,
            }
        )
    return devices


def freed_bytes(
    placement: Mapping[str, Any] | None, model: ModelArchitecture, ranks: Parallelism, dtype: str | None, where: str
) -> int:
    """Return the bytes of one accelerator that weights elsewhere leave to KV, of the stage that frees least."""
    if placement is None:
        return 0
    options = PlacementOptions.model_validate(dict(placement))
    names = {*options.layers, *options.operators.values()} - {HOME}
    rules = placement_of(options, model.num_hidden_layers, dict.fromkeys(names), where)  # type: ignore[arg-type]
    stages = (replace(ranks, stage=stage) for stage in range(ranks.pipeline))
    return min(PlacedWeights(model, stage, rules, {}, dtype).freed_bytes for stage in stages)
