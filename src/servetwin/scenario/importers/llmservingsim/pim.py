"""Attention that LLMServingSim computes in memory, as a step model of ours (FORMATS, section 3.3)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from servetwin.core.errors import InputError
from servetwin.hardware.pim_ini import PimIni, read_pim_ini
from servetwin.scenario.importers.llmservingsim.cluster import LssCluster, LssInstance
from servetwin.scenario.importers.llmservingsim.settings import InstanceSettings

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


def first_pim(source: LssSource, cluster: LssCluster) -> PimIni | None:
    """Return the first node's memory: LLMServingSim uses its bandwidth and latency for the whole cluster."""
    return read_pim_ini(pim_file(source, cluster.instances[0])) if cluster.pim_config is not None else None


def pim_step(
    base: dict[str, Any], instance: LssInstance, settings: InstanceSettings, file: str, *, lss: bool, legacy: bool
) -> dict[str, Any]:
    """Return the step of an instance whose decodes attend in memory.

    In mode lss each point in which LLMServingSim differs is a key that can be taken out: coefficients of unknown origin
    (``pim.model``), the prompt's length for the context (``pim.kv_grows: false``), attention of prompts before that of
    decodes (``overlap``), halves in every step (``interleaving``). In the older dialect KV grows, and attention of
    decodes is computed on the accelerator too where a prompt is beside them (``decodes_again``): its study shows both.
    """
    step: dict[str, Any] = {
        "model": "pim",
        "base": base,
        "pim": {"device": file, "memory_gib": instance.host_memory_gib},
        "mapping": dict.fromkeys(("attention_prefill", "gemm", "experts", "norms", "elementwise"), "accelerator")
        | {"attention_decode": "pim"},
        "interleaving": "auto" if settings.sub_batch_interleaving else "off",
    }
    if lss:
        step["pim"] |= {"model": "lss", "kv_grows": legacy}
        step["overlap"] = False
        step["decodes_again"] = legacy
        step["interleaving"] = "lss" if settings.sub_batch_interleaving else "off"
    return step
