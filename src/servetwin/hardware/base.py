"""An accelerator by its data sheet: memory, bandwidth, dense peaks, links and power, each figure with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from servetwin.core.errors import InputError
from servetwin.core.fields import Fields
from servetwin.core.number_formats import number_format
from servetwin.core.units import GB, GIB
from servetwin.hardware.launch import DEFAULT_LAUNCH_CLASS, LaunchClass, launch_class
from servetwin.hardware.operator_sources import OperatorSources, read_operator_sources

MIB = 2**20
TERA = 10**12

PEAK_FORMATS = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4", "int4")
"""Formats for which a device can state a peak; matrix units where it has them, accumulation in 32 bits."""

FOUR_BIT_FLOATS = {"mxfp4": "fp4", "nvfp4": "fp4"}
"""Formats that differ in their scales only; devices state one peak for them."""


POWER_FIGURES = (
    "standby_w",
    "standby_s",
    "kernel_w",
    "joules_per_flop",
    "joules_per_weight_byte",
    "joules_per_kv_byte",
)
"""What a device's file may say of its power beside ``idle_w`` and ``limit_w``; see `servetwin.hardware.power`."""


@dataclass(frozen=True, slots=True)
class DeviceLink:
    """One way out of a device.

    Attributes
    ----------
    link_class
        What it is (``nvlink4``, ``pcie_gen5``); the network's default latencies go by it.
    bandwidth_bytes_per_s
        Peak in one direction.
    """

    link_class: str
    bandwidth_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator.

    Attributes
    ----------
    memory_bytes
        What the device reports as its total memory (``nvidia-smi``); its nominal size where that is not known.
    nominal_memory_bytes
        The size by which it is sold, in binary gigabytes (the "80" of H100-80GB).
    memory_bandwidth_bytes_per_s
        Peak of the data sheet.
    peak_flops
        Dense operations per second by number format; never figures that count on sparsity.
    scale_up
        The link to its neighbours in a node beside PCIe (NVLink, Infinity Fabric, ICI), or None.
    pcie
        The link to its host, or None.
    idle_w, limit_w
        Power when nothing runs, and the power limit; None where not known.
    power
        Further figures of its power where they are known, by the names of `servetwin.hardware.power`.
    family
        Name of the chip's generation (``hopper``, ``cdna3``), by which calibrated step models find their efficiencies.
    multiprocessors
        Streaming multiprocessors, compute units or cores: what the tiles of a matrix product are spread over; None
        where that is not how the device works, or not known.
    launch
        How work is started on it, see `servetwin.hardware.launch`.
    sources
        Where each figure comes from.
    operators
        Where measured or simulated times of its operators come from; None: there are none.
    """

    name: str
    vendor: str
    memory_bytes: int
    nominal_memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    peak_flops: Mapping[str, float]
    scale_up: DeviceLink | None = None
    pcie: DeviceLink | None = None
    idle_w: float | None = None
    limit_w: float | None = None
    power: Mapping[str, float] = field(default_factory=dict)
    family: str | None = None
    multiprocessors: int | None = None
    launch: LaunchClass = field(default_factory=lambda: launch_class(DEFAULT_LAUNCH_CLASS))
    aliases: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    operators: OperatorSources | None = None

    def peak(self, dtype: str, *, where: str | None = None) -> float:
        """Return the dense peak, in operations per second, for a number format.

        Raises
        ------
        InputError
            If the device has no peak for it; it names the formats that it has.
        """
        name = dtype if dtype in PEAK_FORMATS else FOUR_BIT_FLOATS.get(dtype) or number_format(dtype, where=where)
        if name not in self.peak_flops:
            raise InputError(
                f"{self.name} has no peak for {name}; its formats: {', '.join(self.peak_flops)}", where=where
            )
        return self.peak_flops[name]


def read_device(data: object, *, where: str, folder: Path | None = None) -> Device:
    """Return the device that a YAML file describes (see the catalogue for examples).

    Required: ``name``, ``memory_gib``, ``memory_bandwidth_gb_per_s`` and ``peak_dense_tflops`` with one format.
    ``folder``: from which the paths under ``operators`` count (the file's own).

    Raises
    ------
    InputError
        For a missing or unknown key, or a value that is none.
    """
    fields = Fields(data, where)
    nominal = round(fields.number("memory_gib") * GIB)
    reported = round(fields.number("reported_memory_mib", nominal / MIB) * MIB)
    if reported > nominal:
        raise fields.error("reported_memory_mib", f"({reported / MIB:g}) is more than memory_gib ({nominal / GIB:g})")
    links = fields.child("links")
    power = fields.child("power")
    sources = fields.child("sources")
    device = Device(
        name=fields.text("name"),
        vendor=fields.text("vendor", "unknown"),
        memory_bytes=reported,
        nominal_memory_bytes=nominal,
        memory_bandwidth_bytes_per_s=fields.number("memory_bandwidth_gb_per_s") * GB,
        peak_flops=_peaks(fields.child("peak_dense_tflops")),
        scale_up=_link(links, "scale_up"),
        pcie=_link(links, "pcie"),
        idle_w=power.number("idle_w") if "idle_w" in power else None,
        limit_w=power.number("limit_w") if "limit_w" in power else None,
        power={name: power.number(name) for name in POWER_FIGURES if name in power},
        family=fields.text("family") if "family" in fields else None,
        multiprocessors=fields.integer("multiprocessors") if "multiprocessors" in fields else None,
        launch=launch_class(fields.text("launch_class", DEFAULT_LAUNCH_CLASS), where=where),
        aliases=fields.texts("aliases"),
        sources={key: sources.text(key) for key in sources},
        operators=read_operator_sources(fields.raw("operators"), f"{where}: operators", folder or Path())
        if "operators" in fields
        else None,
    )
    for part in (links, power, fields):
        part.refuse_others()
    return device


def _peaks(fields: Fields) -> dict[str, float]:
    peaks = {name: fields.number(name) * TERA for name in PEAK_FORMATS if name in fields}
    fields.refuse_others(PEAK_FORMATS)
    if not peaks:
        raise InputError(f"states no peak; give at least one of {', '.join(PEAK_FORMATS)}", where=fields.where)
    return peaks


def _link(links: Fields, kind: str) -> DeviceLink | None:
    if kind not in links:
        return None
    fields = links.child(kind)
    link = DeviceLink(fields.text("class"), fields.number("gb_per_s_per_direction") * GB)
    fields.refuse_others()
    return link
