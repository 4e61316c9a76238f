"""Wiring of the encoders in front of the router."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from servetwin.cluster.base import EncoderPool, EncoderTime
from servetwin.core.errors import InputError
from servetwin.core.units import GB, us_to_ns
from servetwin.hardware.catalogue import load_device
from servetwin.scenario.disaggregation import DEFAULT_LATENCY_US, DEFAULT_PORT_GB_PER_S
from servetwin.scenario.encoder_options import EncoderOptions
from servetwin.scenario.hardware import Replica
from servetwin.scenario.schema import Scenario
from servetwin.step.encoder_time import VISION_TRANSFORMERS, MeasuredEncoder, VisionEncoder
from servetwin.workload.base import Workload

EMBEDDING_BYTES = 2


def build_encoders(scenario: Scenario, replicas: Sequence[Replica]) -> EncoderPool | None:
    """Return the encoders of a scenario, None where it has none.

    Raises
    ------
    InputError
        For a device that does not exist, or where the size of an embedding is not known.
    """
    options = scenario.encoders
    if options is None:
        return None
    port = options.port
    bandwidth = DEFAULT_PORT_GB_PER_S if port.bandwidth_gb_per_s is None else port.bandwidth_gb_per_s
    return EncoderPool(
        workers=options.workers,
        time=_time(options, replicas),
        max_batch_requests=options.max_batch_requests,
        bytes_per_token=options.bytes_per_token or EMBEDDING_BYTES * _hidden_size(replicas, "encoders.bytes_per_token"),
        bandwidth_bytes_per_s=bandwidth * GB,
        latency_ns=us_to_ns(DEFAULT_LATENCY_US if port.latency_us is None else port.latency_us),
        device=options.device or "",
    )


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
    """Return what a reader should know of encoders and of requests for them."""
    requests = 0 if workload.encoder_tokens is None else int((workload.encoder_tokens > 0).sum())
    said = []
    if scenario.encoders is None and requests:
        said.append(f"{requests:,} requests have encoder_tokens and no encoders are given: encoding takes no time")
    if scenario.encoders is not None:
        if not requests:
            said.append("no request has encoder_tokens: the encoders have nothing to do")
        if scenario.power is not None or scenario.cost is not None:
            said.append("power and cost leave the encoders out")
    return said
