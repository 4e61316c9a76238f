"""One instance's settings: its own, else the run's flags, else the dialect's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from servetwin.core.errors import InputError
from servetwin.scenario.importers.llmservingsim.cluster import LssInstance
from servetwin.scenario.importers.llmservingsim.flags import NOT_MODELLED, LssFlags
from servetwin.scenario.importers.llmservingsim.refusals import not_modelled

T = TypeVar("T", int, bool, str)

MAIN_DEFAULTS: Mapping[str, int | bool] = {"max_num_seqs": 128, "enable_prefix_caching": True}
LEGACY_DEFAULTS: Mapping[str, int | bool] = {"max_num_seqs": 0, "enable_prefix_caching": False}
MAIN_MEMORY_UTILIZATION, LEGACY_MEMORY_UTILIZATION = 0.9, 1.0
MAIN_ROUTING, LEGACY_ROUTING = "LOAD", "RR"


@dataclass(frozen=True)
class InstanceSettings:
    """What one instance runs with, by vLLM's names; 0 sequences or tokens are resolved. ``dtype`` auto: the model's."""

    max_num_seqs: int
    max_num_batched_tokens: int
    long_prefill_token_threshold: int
    block_size: int
    enable_chunked_prefill: bool
    enable_prefix_caching: bool
    scheduler_reserve_full_isl: bool
    memory_utilization: float
    dtype: str
    kv_cache_dtype: str
    attn_offloading: bool = False
    sub_batch_interleaving: bool = False
    local_offloading: bool = False


def resolve_settings(instance: LssInstance, flags: LssFlags, *, legacy: bool, context_tokens: int) -> InstanceSettings:
    """Return the settings of ``instance``.

    Parameters
    ----------
    context_tokens
        The model's ``max_position_embeddings``: LSS's limit of ``max_num_batched_tokens``, and what 0 means.

    Raises
    ------
    InputError
        If the instance asks for something that is not modelled, or its limits contradict each other.
    """
    for key, feature in NOT_MODELLED.items():
        if instance.overrides.get(key):
            raise not_modelled(f"{instance.where}.{key}", key, feature)
    defaults = LEGACY_DEFAULTS if legacy else MAIN_DEFAULTS

    def pick(key: str, default: T) -> T:
        flag = getattr(flags, key)
        value = instance.overrides.get(key, defaults.get(key, default) if flag is None else flag)
        return type(default)(value)

    budget = min(pick("max_num_batched_tokens", 2048) or context_tokens, context_tokens)
    sequences = pick("max_num_seqs", 128) or budget
    if sequences > budget:
        message = f"max_num_seqs {sequences} exceeds max_num_batched_tokens {budget}; vLLM allows no such engine"
        raise InputError(message, where=instance.where)
    offloading, interleaving = pick("enable_attn_offloading", False), pick("enable_sub_batch_interleaving", False)
    if interleaving and not offloading:
        message = "enable_sub_batch_interleaving needs enable_attn_offloading"
        raise InputError(message, where=instance.where)
    return InstanceSettings(
        max_num_seqs=sequences,
        max_num_batched_tokens=budget,
        long_prefill_token_threshold=pick("long_prefill_token_threshold", 0),
        block_size=pick("block_size", 16),
        enable_chunked_prefill=pick("enable_chunked_prefill", True),
        enable_prefix_caching=pick("enable_prefix_caching", True),
        scheduler_reserve_full_isl=pick("reserve_full_isl", True),
        memory_utilization=_memory_utilization(instance, flags, legacy),
        dtype=pick("dtype", "auto"),
        kv_cache_dtype=pick("kv_cache_dtype", "auto"),
        attn_offloading=offloading,
        sub_batch_interleaving=interleaving,
        local_offloading=pick("enable_local_offloading", False),
    )


def _memory_utilization(instance: LssInstance, flags: LssFlags, legacy: bool) -> float:
    if instance.memory_utilization is not None:
        return instance.memory_utilization
    if flags.npu_memory_utilization is not None:
        return flags.npu_memory_utilization
    return LEGACY_MEMORY_UTILIZATION if legacy else MAIN_MEMORY_UTILIZATION
