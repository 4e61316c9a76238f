"""Wiring of prefill and decode pools: what carries KV between them, and what software adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from servetwin.cluster.base import Disaggregation, InstanceSpec, Router
from servetwin.cluster.kv_transfers import KvPort, KvTransfers
from servetwin.core.errors import InputError
from servetwin.core.units import GB, NS_PER_US, us_to_ns
from servetwin.engine.base import FirstToken
from servetwin.scenario.disaggregation_options import DisaggregationOptions
from servetwin.scenario.hardware import Replica

DEFAULT_PORT_GB_PER_S = 50.0
DEFAULT_LATENCY_US = 10.0


@dataclass(frozen=True, slots=True)
class Connector:
    """Defaults of a piece of software that moves KV; times in microseconds."""

    first_token: FirstToken
    handoff_us: float
    message_us: float


CONNECTORS = {
    "nixl": Connector("decode", 0.0, 0.0),
    "mooncake": Connector("prefill", 0.0, 0.0),
    "instant": Connector("prefill", 0.0, 0.0),
}
"""``nixl``: vLLM's NixlConnector (0.19): the decode side pulls whole blocks when it has room, and computes the prompt's
last token again. ``mooncake``: SGLang's transfer engine: the prefill side makes the first token and pushes."""


def make_disaggregation(
    options: DisaggregationOptions, router: Router, replicas: Sequence[Replica], instances: Sequence[InstanceSpec]
) -> Disaggregation:
    """Return how requests get from prefill to decode, for one run.

    Raises
    ------
    InputError
        If a pool has nobody on the other side, or the two sides' KV or models differ; it names both.
    """
    _check_pools(replicas)
    defaults = CONNECTORS[options.connector]
    handoff_us = defaults.handoff_us if options.handoff_us is None else options.handoff_us
    return Disaggregation(
        decode_router=router,
        transfers=None if options.connector == "instant" else _transfers(options, defaults, replicas, instances),
        handoff_ns=us_to_ns(handoff_us),
        first_token=options.first_token or defaults.first_token,
        local_prompt_tokens=options.local_prompt_tokens,
    )


def _transfers(
    options: DisaggregationOptions,
    defaults: Connector,
    replicas: Sequence[Replica],
    instances: Sequence[InstanceSpec],
) -> KvTransfers:
    by_pool = {replica.pool.name: replica for replica in replicas}
    per_port = DEFAULT_PORT_GB_PER_S if options.port.bandwidth_gb_per_s is None else options.port.bandwidth_gb_per_s
    latency_us = DEFAULT_LATENCY_US if options.port.latency_us is None else options.port.latency_us
    message_us = defaults.message_us if options.message_us is None else options.message_us
    ports = [
        KvPort(
            spec.name,
            per_port * GB * by_pool[spec.pool].engine.accelerators_per_rank,
            by_pool[spec.pool].kv_bytes_per_block // spec.settings.block_size,
        )
        for spec in instances
    ]
    return KvTransfers(
        ports,
        latency_us * NS_PER_US,
        message_tokens=max(spec.settings.block_size for spec in instances),
        message_ns=message_us * NS_PER_US,
    )


def _check_pools(replicas: Sequence[Replica]) -> None:
    """Check that every prefill pool finds a decode pool that can hold its KV."""
    for one in replicas:
        for other in replicas:
            if one.pool.role != "prefill" or other.pool.role == "prefill" or one.model_name != other.model_name:
                continue
            ours, theirs = _kv_format(one), _kv_format(other)
            if ours != theirs:
                raise InputError(
                    f"pool {one.pool.name} keeps its KV in {ours}, pool {other.pool.name} in {theirs}: the second "
                    "cannot hold what the first sends; give both the same kv_cache_dtype",
                    where=f"{other.where}.engine.kv_cache_dtype",
                )


def _kv_format(replica: Replica) -> str:
    if not replica.has_model:
        return "no format"
    return replica.kv_cache_dtype or replica.dtype or replica.model.kv_cache_dtype
