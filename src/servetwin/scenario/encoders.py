"""Wiring of the encoders in front of the instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from servetwin.cluster.base import EncoderPool, EncoderTime, InstanceSpec
from servetwin.cluster.embeddings import encoder_names
from servetwin.cluster.kv_transfers import KvPort
from servetwin.core.errors import InputError
from servetwin.core.units import GB, seconds_to_ns
from servetwin.hardware.catalogue import load_device
from servetwin.scenario.disaggregation_options import PortOptions
from servetwin.scenario.encoder_options import EncoderOptions
from servetwin.scenario.hardware import Replica
from servetwin.scenario.schema import Scenario
from servetwin.step.encoder_time import MeasuredEncoder, VisionEncoder
from servetwin.step.vision_transformer import VISION_TRANSFORMERS
from servetwin.workload.base import Workload

EMBEDDING_BYTES = 2


def build_encoders(
    scenario: Scenario, replicas: Sequence[Replica], instances: Sequence[InstanceSpec], workload: Workload
) -> EncoderPool | None:
    """Return the encoders of a scenario, None where it has none.

    Raises
    ------
    InputError
        For a device that does not exist, where the size of an embedding is not known, or where requests have something
        to encode and there are no encoders.
    """
    options = scenario.encoders
    if options is None:
        _check_nothing_to_encode(workload)
        return None
    bandwidth = options.port.bytes_per_s
    accelerators = {replica.pool.name: replica.engine.accelerators_per_rank for replica in replicas}
    return EncoderPool(
        workers=options.workers,
        time=_time(options, replicas),
        max_batch_requests=options.max_batch_requests,
        bytes_per_token=options.bytes_per_token or EMBEDDING_BYTES * _hidden_size(replicas, "encoders.bytes_per_token"),
        bandwidth_bytes_per_s=bandwidth,
        latency_ns=round(options.port.latency_ns),
        device=options.device or "",
        cap_bytes_per_s=None if options.port.transfer_gb_per_s is None else options.port.transfer_gb_per_s * GB,
        instance_bytes_per_s=[bandwidth * accelerators[spec.pool] for spec in instances],
        interval_ns=seconds_to_ns(scenario.output.interval_s),
    )


def encoder_ports(pool: EncoderPool, kv_port: PortOptions) -> list[KvPort]:
    """Return the encoders' ports in the network of KV, in which instances have half of KV's latency."""
    own_ns = max(0.0, pool.latency_ns - kv_port.latency_ns / 2)
    return [
        KvPort(name, pool.bandwidth_bytes_per_s, kv_bytes_per_token=0, latency_ns=own_ns)
        for name in encoder_names(pool.workers)
    ]


def _check_nothing_to_encode(workload: Workload) -> None:
    requests = _requests_to_encode(workload)
    if requests:
        raise InputError(
            f"{requests:,} of {len(workload):,} requests have encoder_tokens, and no encoders are given; give encoders "
            "(docs/encoders.md), or leave encoder_tokens out of the workload: prompt_tokens are then computed as text",
            where="encoders",
        )


def _requests_to_encode(workload: Workload) -> int:
    return 0 if workload.encoder_tokens is None else int((workload.encoder_tokens > 0).sum())


def _time(options: EncoderOptions, replicas: Sequence[Replica]) -> EncoderTime:
    if options.time is not None:
        return MeasuredEncoder(**options.time.model_dump())
    assert options.model is not None  # validated
    assert options.device is not None
    device = load_device(options.device, relative_to=replicas[0].folder, where="encoders.device")
    sizes = replace(VISION_TRANSFORMERS[options.model], out_hidden_size=_hidden_size(replicas, "encoders.model"))
    return VisionEncoder(sizes, device, options.tokens_per_image)


def _hidden_size(replicas: Sequence[Replica], where: str) -> int:
    """Return the hidden size of all models that are served."""
    sizes = {replica.model.hidden_size for replica in replicas if replica.has_model}
    if len(sizes) != 1:
        found = ", ".join(map(str, sorted(sizes))) or "none"
        raise InputError(
            f"an embedding is as long as the served model's hidden size; hidden sizes here: {found}. Serve models of "
            "one hidden size, or give encoders.time and encoders.bytes_per_token",
            where=where,
        )
    return sizes.pop()


def encoder_notices(scenario: Scenario, workload: Workload) -> list[str]:
    """Return what a reader should know of encoders."""
    if scenario.encoders is None or _requests_to_encode(workload):
        return []
    return ["no request has encoder_tokens: the encoders have nothing to do"]
