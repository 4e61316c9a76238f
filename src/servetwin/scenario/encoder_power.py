"""Wiring of what encoders draw and cost."""

from __future__ import annotations

from pathlib import Path

from servetwin.cluster.base import EncoderPool
from servetwin.core.errors import InputError
from servetwin.energy.base import ENCODERS, EncoderPower, NodePower
from servetwin.hardware.catalogue import load_device
from servetwin.hardware.power import DevicePower
from servetwin.scenario.device_power import node_accelerators, node_power, power_of
from servetwin.scenario.encoder_options import EncoderOptions
from servetwin.scenario.hardware import Replica
from servetwin.scenario.power_options import PowerOptions
from servetwin.scenario.schema import HardwareOptions, PoolOptions, Scenario
from servetwin.step.encoder_time import VisionEncoder


def encoder_replica(scenario: Scenario, folder: Path) -> Replica | None:
    """Return the encoders as a pool that serves nothing, for accounts; None where there are none, or no accounts.

    Raises
    ------
    InputError
        If nobody says what device they are.
    """
    options = scenario.encoders
    if options is None or (scenario.power is None and scenario.cost is None):
        return None
    if options.device is None:
        raise InputError(
            "power and cost count the encoders, so their device must be known; give encoders.device", where="encoders"
        )
    load_device(options.device, relative_to=folder, where="encoders.device")
    hardware = HardwareOptions(device=options.device)
    return Replica(PoolOptions(name=ENCODERS, replicas=options.workers, hardware=hardware), None, folder)


def encoder_power(scenario: Scenario, replica: Replica, pool: EncoderPool) -> tuple[EncoderPower, list[str]]:
    """Return what encoders draw, and what a reader should know of it.

    Raises
    ------
    InputError
        For a device without power figures, or where the power of a batch is not known or not possible.
    """
    options, encoders = scenario.power, scenario.encoders
    assert options is not None
    assert encoders is not None
    device = power_of(options, replica)
    _check_busy(encoders, device)
    power = EncoderPower(
        name=ENCODERS,
        device=device,
        accelerators=1,
        instances=pool.workers,
        node=node_power(options.node) if options.node else NodePower(),
        node_accelerators=node_accelerators(options, pool.workers),
        sleep_after_s=options.sleep_after_s,
        sleep_w=options.sleep_w,
        work=pool.time if isinstance(pool.time, VisionEncoder) else None,
        busy_w=encoders.busy_w,
    )
    said = [f"power of {device.name}: {device.source}"] if device.source else []
    if _is_limited(options):
        said.append("power caps and clocks do not slow the encoders down")
    return power, said


def _check_busy(options: EncoderOptions, device: DevicePower) -> None:
    where, given = "encoders.busy_w", options.busy_w
    if given is None:
        if options.model is None:
            raise InputError(
                "measured times do not tell what a batch computes; give the power of an encoder at work", where=where
            )
        return
    if not device.standby_w <= given <= device.limit_w:
        raise InputError(
            f"given {given:g}: {device.name} draws {device.standby_w:g} W in standby and at most {device.limit_w:g} W",
            where=where,
        )


def _is_limited(options: PowerOptions) -> bool:
    clocks = (options.clock, options.decode_clock)
    return options.cap_w is not None or options.thermal is not None or any(c not in (None, 1.0) for c in clocks)
