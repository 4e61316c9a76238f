"""Attention that LLMServingSim computes in memory, as a step model of ours (FORMATS, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servetwin.core.errors import InputError
from servetwin.hardware.pim_ini import read_pim_ini
from servetwin.scenario.importers.llmservingsim.cluster import LssCluster, LssInstance
from servetwin.scenario.importers.llmservingsim.refusals import not_modelled
from servetwin.scenario.importers.llmservingsim.settings import InstanceSettings
from servetwin.step.pim.placement import CLASSES

if TYPE_CHECKING:
    from servetwin.scenario.importers.llmservingsim.build import LssSource


def pim_file(source: LssSource, instance: LssInstance) -> Path:
    """Return the file that an instance's node names in ``cpu_mem.pim_config``.

    Raises
    ------
    InputError
        If it names none, or there is no such file.
    """
    if instance.pim_config is None:
        message = "attention is offloaded, but the node's cpu_mem has no pim_config: name a file of configs/pim"
        raise InputError(message, where=instance.where)
    folder = source.pim_configs or source.cluster.resolve().parent.parent / "pim"
    path = folder / f"{instance.pim_config}.ini"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.ini"))) or "none"
        message = f"no file {path}; there are: {known}. Name another folder with --pim-configs"
        raise InputError(message, where=f"{instance.where}: cpu_mem.pim_config")
    return path


def pim_host_io(source: LssSource, cluster: LssCluster) -> dict[str, Any]:
    """Return the first node's memory as LLMServingSim's host memory: its figures stand for those of ``cpu_mem``."""
    first = cluster.instances[0]
    ini = read_pim_ini(pim_file(source, first))
    bandwidth = int(ini.num_channels(first.host_memory_gib) * ini.bandwidth_gb_per_s)
    return {"bandwidth_gb_per_s": bandwidth, "latency_ns": int(ini.latency_ns)}


def pim_step(
    base: dict[str, Any],
    source: LssSource,
    cluster: LssCluster,
    members: Sequence[LssInstance],
    settings: InstanceSettings,
    relative: Callable[[Path], str],
) -> dict[str, Any]:
    """Return the step of instances whose decodes attend in memory; ``base`` where they do not.

    In mode lss each point in which LLMServingSim differs is a key that can be taken out: coefficients of unknown origin
    (``pim.model``), the prompt's length for the context (``pim.kv_grows: false``), attention of prompts before that of
    decodes (``overlap``), halves in every step (``interleaving``). In the older dialect KV grows, and attention of
    decodes is computed on the accelerator too where a prompt is beside them (``decodes_again``): its study shows both.
    With halves it also shows that the memory's energy counts once per request, not on each channel (``pim.charged``).
    """
    if not settings.attn_offloading:
        return base
    instance = members[0]
    if len(members) > 1 or instance.pipeline_parallel_size > 1:
        raise not_modelled(instance.where, "attention in memory with pp_size above 1 or a dp_group", "its plans")
    device: dict[str, Any] = {
        "device": relative(pim_file(source, instance)),
        "memory_gib": instance.host_memory_gib,
    }
    step: dict[str, Any] = {
        "model": "pim",
        "base": base,
        "pim": device,
        "mapping": {**dict.fromkeys(CLASSES, "accelerator"), "attention_decode": "pim"},
        "interleaving": "auto" if settings.sub_batch_interleaving else "off",
    }
    if source.mode == "lss":
        device |= {"model": "lss", "kv_grows": cluster.legacy}
        if settings.sub_batch_interleaving:
            device["charged"] = "requests"
        step["overlap"] = False
        step["decodes_again"] = cluster.legacy
        step["interleaving"] = "lss" if settings.sub_batch_interleaving else "off"
    return step
