"""The step model as a scenario names it: ``step: {model: pim, base: ..., pim: ..., mapping: ...}``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.number_formats import bytes_per_element
from servetwin.core.units import GIB
from servetwin.hardware.base import Device
from servetwin.hardware.catalogue import load_device
from servetwin.hardware.pim import PimDevice, load_pim_device
from servetwin.hardware.pim_ini import read_pim_ini
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.operators import AttentionKernel, RankOperator, operators
from servetwin.llm.parallel import Parallelism
from servetwin.step.base import StepModel, StepShape, step_models
from servetwin.step.host import NO_HOST_OVERHEAD
from servetwin.step.pim.base import PimAttention, decodes_of
from servetwin.step.pim.closed_form import ClosedFormAttention
from servetwin.step.pim.elsewhere import InMemory, OnHost, weight_bytes
from servetwin.step.pim.lss import LssPimAttention
from servetwin.step.pim.model import Elsewhere, Interleaving, PimStepModel
from servetwin.step.pim.placement import CLASSES, PRODUCTS, OperatorClass, Resource, chosen, read_mapping
from servetwin.step.pim.split import check_splits, split_step
from servetwin.step.pim.table import TableAttention
from servetwin.step.roofline import RooflineStepModel

HOST_LATENCY_NS = 10_000.0
"""One crossing between an accelerator and its host: a copy with its launch and its wait."""

CHOSEN_AT = {"decodes": 64, "context_tokens": 1024, "prefill_tokens": 512}
"""The step at which places are chosen: so many decodes of such a context, and a prompt chunk of so many tokens."""


@step_models.register("pim")
def pim_step_model(
    base_model: StepModel,
    architecture: ModelArchitecture,
    folder: Path,
    kv_bytes: Callable[[], int],
    find_device: Callable[[], Device],
    tensor_parallel_size: int = 1,
    kv_cache_dtype: str | None = None,
    base: Mapping[str, Any] | str | None = None,
    pim: Mapping[str, Any] | None = None,
    host_device: str | None = None,
    mapping: Mapping[str, str] | str | None = None,
    chosen_at: Mapping[str, int] | None = None,
    interleaving: Interleaving = "auto",
    overlap: bool = True,
    decodes_again: bool = False,
) -> PimStepModel:
    """Return the step model of an accelerator beside memory that computes.

    Parameters
    ----------
    base_model, base
        The accelerator's step model, and the options that it was made from (``{model: roofline}`` by default).
    architecture, tensor_parallel_size, kv_cache_dtype
        The model, its ranks, and the KV cache's format.
    folder
        From which relative paths count.
    kv_bytes
        Returns the bytes of the KV cache over all ranks.
    find_device
        Returns the accelerator; asked only where something runs on the host.
    pim
        ``{device, count}`` of a closed form; ``{table, capacity_gib}`` of results of another simulator; or
        ``{model: lss, device, memory_gib}`` of LLMServingSim's coefficients.
    host_device
        The host's processor, if operators may run there.
    mapping
        Where each class of operators runs (``attention_decode``, ``attention_prefill``, ``gemm``, ``experts``,
        ``norms``, ``elementwise``): ``accelerator``, ``pim``, ``host`` or ``auto`` (the default: by predicted time);
        one place for all; or ``{path: FILE}`` of such a mapping.
    chosen_at
        The step at which places are chosen: ``{decodes: 64, context_tokens: 1024, prefill_tokens: 512}``.
    interleaving, overlap, decodes_again
        See `PimStepModel`.

    Raises
    ------
    InputError
        For an option that is wrong, or a memory that cannot hold what stands in it.
    """
    del base
    check_splits(base_model)
    ranks = tensor_parallel_size
    ops = operators(architecture, Parallelism(ranks), kv_cache_dtype=kv_cache_dtype)
    device, attention = _attention(dict(pim or {}), folder, architecture, ops, ranks)
    places: dict[Resource, Elsewhere] = {}
    if isinstance(attention, ClosedFormAttention):
        places["pim"] = InMemory(attention.device, attention.count, ops, ranks)
    if host_device is not None:
        processor = load_device(host_device, relative_to=folder, where="host_device")
        on_host = RooflineStepModel(architecture, processor, kv_cache_dtype=kv_cache_dtype, host=NO_HOST_OVERHEAD)
        places["host"] = OnHost(on_host, find_device(), ops, HOST_LATENCY_NS)
    wanted = read_mapping(mapping, folder)
    if not isinstance(attention, ClosedFormAttention) and wanted["attention_decode"] == "auto":
        wanted["attention_decode"] = "pim"
    times = _class_times(base_model, attention, places, _reference(chosen_at))
    found = chosen(wanted, times)
    model = PimStepModel(
        base_model,
        attention,
        found,
        num_layers=architecture.num_hidden_layers,
        elsewhere=places,
        interleaving=interleaving,
        overlap=overlap,
        decodes_again=decodes_again,
    )
    _check_capacity(attention, device, found, ops, ranks, kv_bytes)
    model.device = attention.device if isinstance(attention, ClosedFormAttention) else None
    model.notices = [_said(found, times)] if "auto" in wanted.values() else []
    return model


def _attention(
    options: dict[str, Any], folder: Path, architecture: ModelArchitecture, ops: tuple[RankOperator, ...], ranks: int
) -> tuple[str, PimAttention]:
    """Return a name of the memory, and attention in it."""
    if options.get("model") == "lss":
        return _lss_attention(options, folder, architecture, ops)
    if "table" in options:
        _refuse_others(options, ("table", "capacity_gib"))
        if not isinstance(options["table"], str):
            raise InputError(f"the path of a CSV is needed, got {options['table']!r}", where="pim.table")
        capacity = options.get("capacity_gib")
        size = None if capacity is None else round(_number(options, "capacity_gib") * GIB)
        return str(options["table"]), TableAttention(
            folder / options["table"], architecture.num_hidden_layers, size, ranks
        )
    _refuse_others(options, ("device", "count", "memory_gib", "latency_ns", "model"))
    if options.get("model", "closed_form") != "closed_form":
        raise unknown_name("model of memory", options["model"], ("closed_form", "lss"), where="pim.model")
    if "device" not in options:
        raise InputError("device is missing: a PIM device, a file, or table: FILE.csv", where="pim")
    device, count = _device(options, folder)
    return device.name, ClosedFormAttention(device, count, ops, ranks)


def _device(options: Mapping[str, Any], folder: Path) -> tuple[PimDevice, int]:
    """Return the device and how many there are; of LLMServingSim's files as many channels as the memory has."""
    name = str(options["device"])
    if name.endswith(".ini"):
        latency = _number(options, "latency_ns") if "latency_ns" in options else None
        memory = _number(options, "memory_gib") if "memory_gib" in options else None
        return read_pim_ini(folder / name).device(memory, latency), 1
    for key in ("memory_gib", "latency_ns"):
        if key in options:
            raise InputError("belongs to .ini files of LLMServingSim; say how many with count", where=f"pim.{key}")
    return load_pim_device(name, relative_to=folder, where="pim.device"), _count(options)


def _lss_attention(
    options: Mapping[str, Any], folder: Path, architecture: ModelArchitecture, ops: tuple[RankOperator, ...]
) -> tuple[str, PimAttention]:
    _refuse_others(options, ("model", "device", "memory_gib", "kv_grows", "charged"))
    if "device" not in options:
        raise InputError("device is missing: the path of a file of configs/pim", where="pim")
    ini = read_pim_ini(folder / str(options["device"]))
    channels = ini.num_channels(_number(options, "memory_gib"))
    kernel = next((op for op in ops if isinstance(op, AttentionKernel) and op.phase != "prefill"), None)
    if kernel is None:
        raise InputError("the model has no attention that could be computed in memory", where="pim")
    return ini.name, LssPimAttention(
        ini.name,
        int(channels),
        channels * ini.bandwidth_gb_per_s,
        ini.latency_ns,
        num_heads=kernel.num_heads,
        num_kv_heads=kernel.num_kv_heads,
        head_dim=kernel.head_dim,
        num_layers=architecture.num_hidden_layers,
        activation_bytes=bytes_per_element(architecture.dtype),
        active_w=ini.peak_w - ini.idle_w,
        kv_grows=bool(options.get("kv_grows", False)),
        idle_w=ini.idle_w * int(channels),
        charged=str(options.get("charged", "entries")),
    )


def _refuse_others(options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in options:
        if key not in known:
            raise unknown_name("key", key, known, where=f"pim.{key}")


def _number(options: Mapping[str, Any], key: str) -> float:
    value = options.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise InputError(f"a number above 0 is needed, got {value!r}", where=f"pim.{key}")
    return float(value)


def _count(options: Mapping[str, Any]) -> int:
    count = options.get("count", 1)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 1_000_000:
        raise InputError(f"a whole number of at least 1 is needed, got {count!r}", where="pim.count")
    return count


def _reference(given: Mapping[str, int] | None) -> StepShape:
    figures = dict(CHOSEN_AT)
    for key, value in (given or {}).items():
        if key not in figures:
            raise unknown_name("key", key, CHOSEN_AT, where="chosen_at")
        if value < 0:
            raise InputError(f"must be at least 0, got {value!r}", where=f"chosen_at.{key}")
        figures[key] = value
    n, context, new = figures["decodes"], figures["context_tokens"], figures["prefill_tokens"]
    if not n + new:
        raise InputError("a step without decodes and without a chunk decides nothing", where="chosen_at")
    return StepShape(n, n * context, ((new, 0),) if new else (), context, context, 0, (context,) * n)


def _class_times(
    base: StepModel, attention: PimAttention, places: Mapping[Resource, Elsewhere], shape: StepShape
) -> dict[OperatorClass, dict[Resource, float]]:
    decodes = decodes_of(shape)
    alone = {
        "attention_decode": StepShape(shape.num_decodes, shape.decode_kv_tokens, (), decodes.kv_max, decodes.kv_max),
        "attention_prefill": StepShape(0, 0, shape.prefills),
    }
    times: dict[OperatorClass, dict[Resource, float]] = {}
    for name in CLASSES:
        of = alone.get(name, shape)
        times[name] = {"accelerator": split_step(base, of).of_class(name) if of.num_sequences else 0.0}
        for place, model in places.items():
            if place != "pim" or name in PRODUCTS:
                times[name][place] = model.time_ns(name, of) if of.num_sequences else 0.0
    times["attention_decode"]["pim"] = attention.step_ns(decodes)
    return times


def _check_capacity(
    attention: PimAttention,
    name: str,
    mapping: Mapping[OperatorClass, Resource],
    ops: tuple[RankOperator, ...],
    ranks: int,
    kv_bytes: Callable[[], int],
) -> None:
    if attention.capacity_bytes is None:
        return
    kv = kv_bytes() if mapping["attention_decode"] == "pim" else 0
    weights = sum(weight_bytes(ops, cls) * ranks for cls, place in mapping.items() if place == "pim")
    if kv + weights > attention.capacity_bytes:
        beside = f" beside {weights / GIB:.2f} GiB of weights" if weights else ""
        raise InputError(
            f"the KV cache of {kv / GIB:.2f} GiB does not fit{beside} in {name}: it holds "
            f"{attention.capacity_bytes / GIB:.2f} GiB. Set engine.num_gpu_blocks_override to at most "
            f"{max(0.0, (attention.capacity_bytes - weights) / max(1, kv)):.1%} of the blocks that there are now, or "
            "give more memory (pim.count)",
            where="pim",
        )


def _said(found: Mapping[OperatorClass, Resource], times: Mapping[OperatorClass, Mapping[Resource, float]]) -> str:
    parts = []
    for name, place in found.items():
        others = ", ".join(f"{other} {time / 1000:.0f}" for other, time in times[name].items())
        if any(times[name].values()):
            parts.append(f"{name} -> {place} (predicted us: {others})")
    return f"operator mapping: {'; '.join(parts)}"
