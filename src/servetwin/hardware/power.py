"""An accelerator's power as a function of what it does and of its clock.

A device that runs a step draws a floor as long as kernels run, and an energy for each operation and each byte:

    watts = kernel_w + (operations x joules_per_flop + bytes x joules_per_byte) / seconds, at most limit_w

Between kernels, with a context loaded, it draws ``standby_w``; after ``standby_s`` of that, ``idle_w``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.fields import read_document
from servetwin.hardware.base import Device

CLASSES = Path(__file__).parent / "power_classes.yaml"

SETTABLE = (
    "idle_w",
    "standby_w",
    "standby_s",
    "kernel_w",
    "limit_w",
    "joules_per_weight_byte",
    "joules_per_kv_byte",
    "joules_per_flop",
)
"""What a user may give of a device; ``joules_per_flop`` in bf16, other formats follow."""


@dataclass(frozen=True, slots=True)
class DevicePower:
    """Power of one accelerator.

    Attributes
    ----------
    idle_w, standby_w, kernel_w, limit_w
        Nothing is loaded or clocks are down; clocks are up; kernels run (without operations and bytes); the most.
    standby_s
        How long standby lasts after the last step; None: for ever.
    joules_per_flop
        By number format; ``bf16`` is always there.
    joules_per_weight_byte, joules_per_kv_byte
        Of weights and activations, and of KV that attention reads.
    voltage_floor, lowest_clock
        Supply voltage at clock 0 as a share of that at the highest, linear between; least share of the clock.
    """

    name: str
    idle_w: float
    standby_w: float
    kernel_w: float
    limit_w: float
    standby_s: float | None
    joules_per_flop: Mapping[str, float]
    joules_per_weight_byte: float
    joules_per_kv_byte: float
    voltage_floor: float = 0.65
    lowest_clock: float = 0.2
    source: str = ""

    def __post_init__(self) -> None:
        for low, high in (("idle_w", "standby_w"), ("standby_w", "kernel_w"), ("kernel_w", "limit_w")):
            if not 0 <= getattr(self, low) <= getattr(self, high):
                raise InputError(
                    f"{self.name}: {low} ({getattr(self, low):g}) must be at least 0 and at most {high} "
                    f"({getattr(self, high):g})"
                )

    def flop_energy(self, dtype: str) -> float:
        """Return joules per operation in a number format; that of bf16 for formats that are not known."""
        return self.joules_per_flop.get(dtype, self.joules_per_flop["bf16"])

    @property
    def joules_on_chip_per_kv_byte(self) -> float:
        """The part of a KV byte's energy that attention's own work takes, beyond what moving any byte does."""
        return max(0.0, self.joules_per_kv_byte - self.joules_per_weight_byte)

    def voltage(self, clock: float) -> float:
        """Return the supply voltage at a share of the highest clock, as a share of that at it."""
        return self.voltage_floor + (1.0 - self.voltage_floor) * clock

    def kernel_w_at(self, clock: float) -> float:
        """Return the floor while kernels run at a share of the highest clock: what switches goes with f V^2."""
        return self.standby_w + (self.kernel_w - self.standby_w) * clock * self.voltage(clock) ** 2

    def changed(self, values: Mapping[str, float | None], *, where: str | None = None) -> DevicePower:
        """Return a copy with some of `SETTABLE` changed.

        Raises
        ------
        InputError
            For an unknown name, or powers that contradict each other.
        """
        known: dict[str, Any] = {}
        for name, value in values.items():
            if name not in SETTABLE:
                raise unknown_name("power figure", name, SETTABLE, where=where)
            known[name] = value
        given = known.pop("joules_per_flop", None)
        if given is not None:
            scale = given / self.joules_per_flop["bf16"]
            known["joules_per_flop"] = {name: joules * scale for name, joules in self.joules_per_flop.items()}
        try:
            return replace(self, **known)
        except InputError as error:
            raise InputError(str(error), where=where) from None


def device_power(
    device: Device, given: Mapping[str, float | None] | None = None, *, where: str | None = None
) -> DevicePower:
    """Return the power of a device: as given, else of its own file, else by the shares of its class.

    Parameters
    ----------
    given
        Some of `SETTABLE`.
    where
        The key's path, for messages.

    Raises
    ------
    InputError
        If nothing says its idle power or its limit, or figures contradict each other (``kernel_w`` above ``limit_w``).
    """
    values = {**device.power, **(given or {})}
    idle, limit = values.get("idle_w", device.idle_w), values.get("limit_w", device.limit_w)
    missing = [name for name, value in (("idle_w", idle), ("limit_w", limit)) if value is None]
    if idle is None or limit is None:
        raise InputError(
            f"{device.name} has no power figures: {' and '.join(missing)} missing; give them under "
            f"power.devices.{device.name}, or in the device's file",
            where=where,
        )
    if idle >= limit:
        raise InputError(f"{device.name}: idle_w ({idle:g}) is not below limit_w ({limit:g})", where=where)
    made = _of_class(device, float(idle), float(limit), where)
    rest = {name: value for name, value in values.items() if name not in ("idle_w", "limit_w")}
    return made.changed(rest, where=where)


def power_class(family: str | None) -> Mapping[str, Any]:
    """Return the shares of a family of devices."""
    data = _classes()
    shares: Mapping[str, Any] = data[data["families"].get(family, "generic")]
    return shares


@cache
def _classes() -> Mapping[str, Any]:
    data = read_document(CLASSES)
    assert isinstance(data, dict)
    return data


def _of_class(device: Device, idle_w: float, limit_w: float, where: str | None) -> DevicePower:
    shares = power_class(device.family)
    flop, weight_byte, kv_byte = _energies(device, limit_w, where)
    standby_w = max(idle_w, shares["standby_share"] * limit_w)
    return DevicePower(
        name=device.name,
        idle_w=idle_w,
        standby_w=standby_w,
        kernel_w=max(standby_w, shares["kernel_share"] * limit_w),
        limit_w=limit_w,
        standby_s=shares["standby_s"],
        joules_per_flop={"bf16": flop, "fp16": flop} | {k: v * flop for k, v in shares["format_energy"].items()},
        joules_per_weight_byte=weight_byte,
        joules_per_kv_byte=kv_byte,
        voltage_floor=shares["voltage_floor"],
        lowest_clock=shares["lowest_clock"],
        source=shares["source"],
    )


def _energies(device: Device, limit_w: float, where: str | None) -> tuple[float, float, float]:
    """Return joules per operation in bf16, per byte of weights, and per byte of KV."""
    shares = power_class(device.family)
    if "joules_per_flop" in shares:
        return shares["joules_per_flop"], shares["joules_per_weight_byte"], shares["joules_per_kv_byte"]
    peak = _bf16_peak(device, shares["format_energy"], where)
    bandwidth = device.memory_bandwidth_bytes_per_s
    return (
        shares["compute_share"] * limit_w / peak,
        shares["weight_share"] * limit_w / bandwidth,
        shares["kv_share"] * limit_w / bandwidth,
    )


def _bf16_peak(device: Device, energies: Mapping[str, float], where: str | None) -> float:
    """Return the bf16 peak; of a device that has none, what another format's stands for."""
    for name in ("bf16", "fp16"):
        if name in device.peak_flops:
            return device.peak_flops[name]
    for name, peak in device.peak_flops.items():
        return peak * float(energies.get(name, 1.0))
    raise InputError(f"{device.name} states no peak, so that its power is not known", where=where)
