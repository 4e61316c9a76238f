"""Wiring of prefill and decode pools: what carries KV between them, and what software adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from servetwin.cluster.base import Disaggregation, InstanceSpec, Router
from servetwin.cluster.kv_transfers import KvPort, KvTransfers
from servetwin.core.errors import InputError
from servetwin.core.units import GB, NS_PER_S, NS_PER_US, us_to_ns
from servetwin.engine.base import FirstToken
from servetwin.llm.parts import LatentAttention
from servetwin.scenario.disaggregation_options import DisaggregationOptions, KvPortOptions
from servetwin.scenario.hardware import Replica
from servetwin.scenario.link_sharing import accelerator_port_bytes_per_s
from servetwin.step.link_share import LinkTime


@dataclass(frozen=True, slots=True)
class Connector:
    """Defaults of a piece of software that moves KV, by the names of the options."""

    first_token: FirstToken
    handoff_us: float
    message_us: float


CONNECTORS = {
    "nixl": Connector("decode", 25_000.0, 3.0),
    "mooncake": Connector("prefill", 1_000.0, 0.0),
    "instant": Connector("prefill", 0.0, 0.0),
}
"""``nixl``: vLLM's NixlConnector (0.19): the decode side pulls whole blocks when it has room, and computes the prompt's
last token again. Its router sends a request to the decode side when the prefill side has answered: 32 ms at the median
from there until it is queued, scheduler included (vllm-project/router, pull request 207); without the wait for the
scheduler, which is simulated, about 25. A pull of 5,000 tokens takes 58 ms more in blocks of 16 than of 64 tokens
(vllm-project/vllm, issue 50913), some 20,000 descriptors less; posting 1,785 took 6.7 ms there: 3 us each.
``mooncake``: SGLang's transfer engine: the prefill side makes the first token and pushes. Both sides get a request at
once, so that only a message about the state is left; 1 ms is an assumption."""


def make_disaggregation(
    options: DisaggregationOptions,
    router: Router,
    replicas: Sequence[Replica],
    instances: Sequence[InstanceSpec],
    interval_ns: int = NS_PER_S,
    others: Sequence[KvPort] = (),
    shared: Sequence[LinkTime | None] = (),
) -> Disaggregation:
    """Return how requests get from prefill to decode, for one run; the links' use is added up over ``interval_ns``.

    ``others`` are ports of those that use the network beside the instances; ``shared`` is what instances' own steps
    take of their ports (`servetwin.scenario.link_sharing`).

    Raises
    ------
    InputError
        If a pool has nobody on the other side, or the two sides' KV or models differ; it names both.
    """
    _check_pools(replicas)
    _check_used(options)
    facts = disaggregation_facts(options, replicas)
    ports = _ports(options, replicas, instances)
    return Disaggregation(
        decode_router=router,
        transfers=_transfers(options, replicas, instances, [*ports, *others], interval_ns, shared) if ports else None,
        handoff_ns=us_to_ns(facts["handoff_us"]),
        first_token=facts["first_token"],
        local_prompt_tokens=options.local_prompt_tokens,
    )


def disaggregation_facts(options: DisaggregationOptions, replicas: Sequence[Replica]) -> dict[str, Any]:
    """Return what followed from the options: the connector's defaults filled in, and bytes of KV per token by pool."""
    defaults = CONNECTORS[options.connector]
    facts: dict[str, Any] = {
        "first_token": options.first_token or defaults.first_token,
        "handoff_us": defaults.handoff_us if options.handoff_us is None else options.handoff_us,
    }
    if options.connector == "instant":
        return facts
    return facts | {
        "message_us": defaults.message_us if options.message_us is None else options.message_us,
        "messages_per_block": max(_messages_per_block(replica) for replica in replicas),
        "kv_bytes_per_token": {
            replica.pool.name: replica.kv_bytes_per_block // replica.engine.block_size for replica in replicas
        },
    }


def _ports(
    options: DisaggregationOptions, replicas: Sequence[Replica], instances: Sequence[InstanceSpec]
) -> list[KvPort]:
    """Return the instances' ports; none where KV takes no way."""
    if options.connector == "instant":
        return []
    by_pool = {replica.pool.name: replica for replica in replicas}
    return [_port(spec, by_pool[spec.pool], options.port) for spec in instances]


def _transfers(
    options: DisaggregationOptions,
    replicas: Sequence[Replica],
    instances: Sequence[InstanceSpec],
    ports: Sequence[KvPort],
    interval_ns: int,
    shared: Sequence[LinkTime | None],
) -> KvTransfers:
    cap, fabric = options.port.transfer_gb_per_s, options.port.fabric_gb_per_s
    facts = disaggregation_facts(options, replicas)
    return KvTransfers(
        ports,
        options.port.latency_ns,
        message_tokens=max(spec.settings.block_size for spec in instances),
        message_ns=facts["message_us"] * NS_PER_US * facts["messages_per_block"],
        cap_bytes_per_s=None if cap is None else cap * GB,
        by_layer=options.granularity == "layer",
        fabric_bytes_per_s=None if fabric is None else fabric * GB,
        interval_ns=interval_ns,
        link_times=shared,
    )


def _port(spec: InstanceSpec, replica: Replica, port: KvPortOptions) -> KvPort:
    return KvPort(
        spec.name,
        accelerator_port_bytes_per_s(port, replica) * replica.engine.accelerators_per_rank,
        replica.kv_bytes_per_block // spec.settings.block_size,
        _layers_of_a_stage(replica) if replica.has_model else 1,
    )


def _messages_per_block(replica: Replica) -> int:
    """Return how many pieces of memory a rank has of a block of KV.

    Of a latent attention, one per layer; else keys and values.
    """
    if not replica.has_model:
        return 1
    return _layers_of_a_stage(replica) * (1 if isinstance(replica.model.attention, LatentAttention) else 2)


def _layers_of_a_stage(replica: Replica) -> int:
    """Return the layers whose KV one rank has: a pipeline's stages send theirs at the same time."""
    return -(-replica.model.num_hidden_layers // replica.engine.pipeline_parallel_size)


def _check_used(options: DisaggregationOptions) -> None:
    """Check that nothing is said of the way of KV where KV takes no way."""
    if options.connector != "instant":
        return
    for name in ("port", "message_us", "granularity"):
        if name in options.model_fields_set:
            raise InputError(
                "the connector `instant` moves KV in no time; leave this out, or choose nixl or mooncake",
                where=f"disaggregation.{name}",
            )


def _check_pools(replicas: Sequence[Replica]) -> None:
    """Check that every prefill or decode pool finds partners, and that these can hold its KV."""
    for one in replicas:
        if one.pool.role == "both":
            continue
        others = [other for other in replicas if other.pool.role != one.pool.role]
        partners = [other for other in others if other.model_name == one.model_name]
        if not partners:
            raise _alone(one, others)
        for other in partners:
            ours, theirs = _kv_format(one), _kv_format(other)
            if ours != theirs:
                raise InputError(
                    f"pool {one.pool.name} keeps its KV in {ours}, pool {other.pool.name} in {theirs}: KV cannot go "
                    "from one to the other; give both the same kv_cache_dtype",
                    where=f"{other.where}.engine.kv_cache_dtype",
                )


def _alone(one: Replica, others: Sequence[Replica]) -> InputError:
    """Return the error for a pool without a partner."""
    role = one.pool.role
    wanted = "decode" if role == "prefill" else "prefill"
    if not others:
        message = f"pool {one.pool.name} has the role {role}, and no pool has the role {wanted} or both"
        return InputError(f"{message}; add one", where=f"{one.where}.role")
    theirs = ", ".join(f"pool {other.pool.name} serves {other.model_name!r}" for other in others)
    message = f"pool {one.pool.name} has the role {role} for the model {one.model_name!r}, but {theirs}"
    return InputError(f"{message}; the two sides must serve one model", where=f"{one.where}.model")


def _kv_format(replica: Replica) -> str:
    if not replica.has_model:
        return "no format"
    return replica.kv_cache_dtype or replica.dtype or replica.model.kv_cache_dtype
