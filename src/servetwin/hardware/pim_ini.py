"""LLMServingSim's ``configs/pim`` files: what it computes from them, and the same memory as one of our devices."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from servetwin.core.errors import InputError
from servetwin.core.units import GB
from servetwin.hardware.pim import PimDevice

_WHOLE = ("bankgroups", "banks_per_group", "rows", "columns", "device_width", "bus_width", "channel_size", "BL", "CL")
_NUMBERS = ("data_rate", "tCK", "idle_power", "peak_power")
_ROW_KEYS = (("tRCD", "tRCDRD"), ("tRP",))

DEFAULT_ACCESS_PJ_PER_BIT, DEFAULT_EXTERNAL_PJ_PER_BIT, DEFAULT_OPERATION_PJ = 2.0, 6.0, 1.0
"""The files state no energies per bit; LLMServingSim's example configs have 6 pJ/bit for the pins."""


@dataclass(frozen=True, slots=True)
class PimIni:
    """One channel of a memory, as such a file has it; times in nanoseconds, sizes in bytes.

    Attributes
    ----------
    channel_gb
        Capacity (LLMServingSim's GB, 2**30 bytes): of the rank that the geometry gives, or ``channel_size`` if larger.
    bandwidth_gb_per_s, latency_ns
        Of the channel's pins, and CL x tCK.
    idle_w, peak_w
        Of the channel.
    """

    name: str
    banks: int
    devices: int
    device_width: int
    burst: int
    columns: int
    t_ck_ns: float
    column_ns: float
    row_switch_ns: float
    channel_gb: float
    bandwidth_gb_per_s: float
    latency_ns: float
    idle_w: float
    peak_w: float

    def num_channels(self, memory_gb: float) -> float:
        """Return how many channels hold ``memory_gb`` (a part of one counts for LLMServingSim's bandwidth)."""
        return memory_gb / self.channel_gb

    def device(self, memory_gb: float | None = None, latency_ns: float | None = None) -> PimDevice:
        """Return the memory as a device of ours: every bank of a channel computes at the rate at which it delivers.

        Parameters
        ----------
        memory_gb
            Of the whole memory; None: one channel.
        latency_ns
            Of one crossing from the accelerator; None: CL x tCK.
        """
        channels = 1 if memory_gb is None else math.floor(self.num_channels(memory_gb))
        if channels < 1:
            raise InputError(f"{memory_gb:g} GB hold no channel of {self.channel_gb:g} GB", where=self.name)
        access = self.devices * self.device_width // 8 * self.burst
        rate = self.banks * access / self.column_ns
        said = f"{self.name}: worked out from its geometry and timings"
        return PimDevice(
            name=self.name,
            channels=channels,
            banks=self.banks,
            parallel_banks=self.banks,
            access_bytes=access,
            access_ns=self.column_ns,
            flops_per_channel=rate * GB,  # one multiply-add per 16-bit element
            row_bytes=self.columns * self.device_width // 8 * self.devices,
            row_switch_ns=self.row_switch_ns,
            command_ns=self.latency_ns,
            external_bytes_per_s=self.bandwidth_gb_per_s * GB,
            capacity_bytes=round(channels * self.channel_gb * 2**30),
            link_bytes_per_s=channels * self.bandwidth_gb_per_s * GB,
            link_latency_ns=self.latency_ns if latency_ns is None else latency_ns,
            access_j_per_byte=DEFAULT_ACCESS_PJ_PER_BIT * 8e-12,
            external_j_per_byte=DEFAULT_EXTERNAL_PJ_PER_BIT * 8e-12,
            operation_j=DEFAULT_OPERATION_PJ * 1e-12,
            idle_w=self.idle_w * channels,
            peak_w=self.peak_w * channels,
            sources={"channels": said, "access_bytes": said, "row_switch_ns": said, "energy": "estimates"},
        )


def read_pim_ini(path: Path) -> PimIni:
    """Read a file of LLMServingSim's ``configs/pim``; its sections do not count, ``#`` and ``;`` begin comments.

    Raises
    ------
    InputError
        If the file cannot be read, or a key that is needed is missing or no number above 0.
    """
    values = _values(path)
    whole = {key: int(_number(values, key, path)) for key in _WHOLE}
    number = {key: _number(values, key, path) for key in _NUMBERS}
    banks = whole["bankgroups"] * whole["banks_per_group"]
    devices = whole["bus_width"] // whole["device_width"]
    if devices < 1:
        raise InputError("bus_width is less than device_width", where=str(path))
    page = whole["columns"] * whole["device_width"] / 8
    rank_mb = page * (whole["rows"] / 1024) / 1024 * banks * devices
    column = _first(values, ("tCCD_L", "tCCD_S"), path)
    row = sum(_first(values, keys, path) for keys in _ROW_KEYS)
    return PimIni(
        name=path.stem,
        banks=banks,
        devices=devices,
        device_width=whole["device_width"],
        burst=whole["BL"],
        columns=whole["columns"],
        t_ck_ns=number["tCK"],
        column_ns=column * number["tCK"],
        row_switch_ns=row * number["tCK"],
        channel_gb=max(rank_mb, whole["channel_size"]) / 1024,
        bandwidth_gb_per_s=whole["bus_width"] / 8 * number["data_rate"] / 1000,
        latency_ns=whole["CL"] * number["tCK"],
        idle_w=number["idle_power"] / 1000,
        peak_w=number["peak_power"] / 1000,
    )


def _values(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None
    values: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = re.split(r"[#;]", line, maxsplit=1)[0].strip()
        if not text or text.startswith("["):
            continue
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"'key = value' is needed, found {text!r}", where=f"{path}:{number}")
        values[key.strip()] = value.strip()
    return values


def _number(values: dict[str, str], key: str, path: Path) -> float:
    if key not in values:
        raise InputError(f"{key} is missing", where=str(path))
    try:
        number = float(values[key])
    except ValueError:
        number = math.nan
    if not 0 < number < 1e12:
        raise InputError(f"{key} must be a number above 0, found {values[key]!r}", where=str(path))
    return number


def _first(values: dict[str, str], keys: tuple[str, ...], path: Path) -> float:
    """Return the value of the first key that is there."""
    return _number(values, next((key for key in keys if key in values), keys[0]), path)
