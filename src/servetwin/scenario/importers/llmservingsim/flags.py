"""LLMServingSim's run flags: their values, and what becomes of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from servetwin.core.errors import InputError, unknown_name
from servetwin.scenario.importers.llmservingsim.cluster import DTYPES, KV_CACHE_DTYPES, checked_utilization
from servetwin.scenario.importers.llmservingsim.refusals import not_modelled


@dataclass(frozen=True)
class LssFlags:
    """Run flags as a user gave them; None where he did not (the dialect's default counts).

    Each attribute is LSS's flag of that name; ``prefix_storage`` and the enumerations keep LSS's spelling.
    ``output``, ``run_id``, ``inputs_root``, ``cleanup_inputs``, ``log_level`` and ``enable_block_copy`` are accepted
    and change nothing.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    long_prefill_token_threshold: int | None = None
    dtype: str | None = None
    kv_cache_dtype: str | None = None
    request_routing_policy: str | None = None
    expert_routing_policy: str | None = None
    enable_block_copy: bool | None = None
    enable_prefix_caching: bool | None = None
    enable_chunked_prefill: bool | None = None
    enable_prefix_sharing: bool | None = None
    prefix_storage: str | None = None
    enable_local_offloading: bool | None = None
    enable_attn_offloading: bool | None = None
    enable_sub_batch_interleaving: bool | None = None
    reserve_full_isl: bool | None = None
    npu_memory_utilization: float | None = None
    block_size: int | None = None
    num_reqs: int | None = None
    skip_prefill: bool | None = None
    network_backend: str | None = None
    log_interval: float | None = None
    output: Path | None = None
    run_id: str | None = None
    inputs_root: Path | None = None
    cleanup_inputs: bool | None = None
    log_level: str | None = None


PLUMBING = ("output", "run_id", "inputs_root", "cleanup_inputs", "log_level", "enable_block_copy")
"""Flags about how LSS runs, not about what it simulates (block copy is a shortcut of its computation)."""

NOT_MODELLED = {
    "enable_prefix_sharing": "a prefix cache shared by instances",
}
"""Switches that change timing, and the feature each belongs to; refused until it lands."""

ROUTERS = {"LOAD": "load", "RR": "round_robin", "RAND": "random"}
"""LSS's routing policies by the router of servetwin that does the same."""

LOG_LEVELS = ("WARNING", "INFO", "DEBUG")


def flag_name(attribute: str) -> str:
    """Return the flag as it is typed."""
    return "--" + attribute.replace("_", "-")


def check_flags(flags: LssFlags) -> list[str]:
    """Refuse what cannot be honoured, and return the notices about what was ignored.

    Raises
    ------
    InputError
        For a flag whose effect is not modelled, an unknown choice, or a value out of range.
    """
    _check_choices(flags)
    _check_ranges(flags)
    for attribute, feature in NOT_MODELLED.items():
        if getattr(flags, attribute):
            raise not_modelled(flag_name(attribute), flag_name(attribute), feature)
    if (flags.prefix_storage or "None") != "None":
        raise not_modelled("--prefix-storage", f"--prefix-storage {flags.prefix_storage}", "KV tiers")
    if flags.skip_prefill:
        reason = "it is inert in LLMServingSim (the prompt is computed all the same, and TTFT is never set); remove it"
        raise InputError(f"--skip-prefill cannot be honoured: {reason}", where="--skip-prefill")
    if flags.network_backend == "ns3":
        reason = "servetwin has an analytical network, and LLMServingSim's ns-3 backend is unfinished; use analytical"
        raise InputError(f"--network-backend ns3 cannot be honoured: {reason}", where="--network-backend")
    ignored = [flag_name(name) for name in PLUMBING if getattr(flags, name) is not None]
    return [f"ignored, they do not change what is simulated: {', '.join(ignored)}"] if ignored else []


def _check_choices(flags: LssFlags) -> None:
    for attribute, allowed in {
        "dtype": DTYPES,
        "kv_cache_dtype": KV_CACHE_DTYPES,
        "request_routing_policy": (*ROUTERS, "CUSTOM"),
        "expert_routing_policy": ("BALANCED", "RR", "RAND", "CUSTOM"),
        "prefix_storage": ("None", "CPU", "CXL"),
        "network_backend": ("analytical", "ns3"),
        "log_level": LOG_LEVELS,
    }.items():
        value = getattr(flags, attribute)
        if value is not None and value not in allowed:
            raise unknown_name("value", value, allowed, where=flag_name(attribute))
    for attribute in ("request_routing_policy", "expert_routing_policy"):
        if getattr(flags, attribute) == "CUSTOM":
            reason = "it is a stub to be edited in LLMServingSim; name a router in the scenario instead"
            raise InputError(f"CUSTOM cannot be honoured: {reason}", where=flag_name(attribute))


def _check_ranges(flags: LssFlags) -> None:
    for attribute, minimum in {
        "max_num_seqs": 0,
        "max_num_batched_tokens": 0,
        "long_prefill_token_threshold": 0,
        "num_reqs": 0,
        "block_size": 1,
    }.items():
        value = getattr(flags, attribute)
        if value is not None and value < minimum:
            raise InputError(f"at least {minimum} is needed, found {value}", where=flag_name(attribute))
    if flags.npu_memory_utilization is not None:
        checked_utilization(flags.npu_memory_utilization, "--npu-memory-utilization")
    if flags.log_interval is not None and not 0 < flags.log_interval < float("inf"):
        raise InputError(f"a number of seconds above 0 is needed, found {flags.log_interval}", where="--log-interval")
