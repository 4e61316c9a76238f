"""Wiring of attention/FFN disaggregation: the FFN devices of a replica, as a replica of their own without requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from servetwin.core.errors import InputError
from servetwin.core.units import GB
from servetwin.memory.ffn_memory import FfnMemory
from servetwin.network.base import Link
from servetwin.scenario.hardware import Replica
from servetwin.scenario.parallel import Stage
from servetwin.scenario.schema import FfnOptions, HardwareOptions, LinkOptions
from servetwin.scenario.step_models import step_model_of
from servetwin.step.ffn_side import FfnSide
from servetwin.step.roofline import RooflineStepModel


def build_ffn(replica: Replica) -> FfnSide:
    """Return the FFN side of a replica.

    Raises
    ------
    InputError
        If it has none, a step model that does not divide layers, or FFNs that do not divide or do not fit.
    """
    options, where = _options(replica), f"{replica.where}.hardware.ffn"
    other = ffn_replica(replica)
    try:
        other.model  # noqa: B018  (checks that the devices divide it)
    except InputError as error:
        message = str(error).removeprefix(f"{error.where}: ")
        raise InputError(message, where=f"{where}.count") from None
    if options.link is not None and (replica.model.is_moe or options.count == 1):
        raise InputError("these FFN devices exchange nothing among them; leave it out", where=f"{where}.link")
    ffn_memory(replica).check(f"{where}.count")
    model = cast(RooflineStepModel, step_model_of(Stage(other, other.ranks)))
    return FfnSide(model, port_of(options), replica.ranks.tensor)


def ffn_replica(replica: Replica) -> Replica:
    """Return what stands for the FFN devices: the same pool on other hardware, whose ranks hold the FFNs alone.

    Whole experts lie on each; without experts they divide each MLP. A token is sent once to each device that has one of
    its experts, as of ``deepep_high_throughput``; the engine's ``deepep_low_latency`` sends one for each expert.
    """
    options, engine = _options(replica), replica.engine
    low_latency = engine.all2all_backend == "deepep_low_latency"
    link = options.link or LinkOptions()
    degrees: dict[str, Any] = {"tensor_parallel_size": options.count, "data_parallel_size": 1}
    if replica.model.is_moe:
        degrees = {"tensor_parallel_size": 1, "data_parallel_size": options.count, "enable_expert_parallel": True}
        degrees["all2all_backend"] = "deepep_low_latency" if low_latency else "deepep_high_throughput"
        port = port_of(options)
        link = LinkOptions(bandwidth_gb_per_s=port.bandwidth_bytes_per_s / GB, latency_ns=port.latency_ns)
    hardware = HardwareOptions(device=options.device, link=link)
    pool = replica.pool.model_copy(
        update={
            "hardware": hardware,
            "engine": engine.model_copy(update=degrees | {"decode_context_parallel_size": 1}),
        }
    )
    return replace(replica, pool=pool, is_ffn=True, link_share=1.0)


def port_of(options: FfnOptions) -> Link:
    """Return the port of each device to the other side; the defaults are those of ports that carry KV."""
    return Link(options.port.bytes_per_s, options.port.latency_ns)


def ffn_memory(replica: Replica) -> FfnMemory:
    """Return the memory of a replica's FFN devices."""
    other, engine = ffn_replica(replica), replica.engine
    tokens = engine.data_parallel_size * engine.max_num_batched_tokens
    return FfnMemory(other.model, other.device, other.ranks, tokens, engine.gpu_memory_utilization, other.dtype)


def ffn_facts(replica: Replica) -> dict[str, Any]:
    """Return what a resolved scenario says of the FFN devices of a pool."""
    options, memory = _options(replica), ffn_memory(replica)
    return {
        "device": options.device,
        "accelerators": replica.pool.replicas * options.count,
        "weight_bytes": memory.parts["weights"] * options.count,
        "memory_bytes_per_accelerator": memory.breakdown,
    }


def _options(replica: Replica) -> FfnOptions:
    options = replica.hardware.ffn
    if options is None:
        raise InputError(
            "the plan 'attention_ffn' needs devices for the FFNs; give hardware: {ffn: {device: ..., count: ...}}",
            where=f"{replica.where}.hardware.ffn",
        )
    return options
