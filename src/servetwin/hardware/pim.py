"""Memory that computes, by documented figures: multipliers beside its banks (PIM), or in its controller (PNM).

Each figure has a source. `servetwin.step.pim` works out from them how long attention takes there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.fields import Fields, read_document
from servetwin.core.units import GB, GIB

CATALOGUE = Path(__file__).parent / "pim_catalog"


@dataclass(frozen=True, slots=True)
class PimDevice:
    """One memory device that computes: a stack, a card or a module.

    Attributes
    ----------
    channels
        Channels that compute independently of each other.
    banks, parallel_banks
        Banks of a channel, and how many of them deliver data to multipliers at the same time.
    access_bytes, access_ns
        What one bank delivers per access, and the time from one access to the next (tCCD).
    flops_per_channel
        Operations per second of a channel's multipliers, two per multiply-add, 16-bit inputs.
    row_bytes, row_switch_ns
        Of a bank: its row buffer, and the time to close a row and open another in all banks (tRP + tRCD).
    command_ns
        Once per head group: mode change, commands, start of the pipeline.
    external_bytes_per_s
        Of one channel's own pins, which queries, scores and outputs pass.
    capacity_bytes
        Memory that the multipliers reach.
    link_bytes_per_s, link_latency_ns
        Between the accelerator and the device, per direction, and of one crossing.
    access_j_per_byte, external_j_per_byte, operation_j
        Energy of a byte from a bank to a multiplier, of a byte over the pins, and of one operation.
    near_memory
        Whether the controller computes, not the banks: it opens a row in one bank while another delivers, and scores do
        not pass the memory's pins.
    idle_w, peak_w
        Of the device; None where not known.
    sources
        Where each figure comes from.
    """

    name: str
    channels: int
    banks: int
    parallel_banks: int
    access_bytes: int
    access_ns: float
    flops_per_channel: float
    row_bytes: int
    row_switch_ns: float
    command_ns: float
    external_bytes_per_s: float
    capacity_bytes: int
    link_bytes_per_s: float
    link_latency_ns: float
    access_j_per_byte: float
    external_j_per_byte: float
    operation_j: float
    near_memory: bool = False
    idle_w: float | None = None
    peak_w: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def channel_bytes_per_s(self) -> float:
        """Internal bandwidth of one channel: all its parallel banks together."""
        return self.parallel_banks * self.access_bytes / self.access_ns * 1e9

    @property
    def internal_bytes_per_s(self) -> float:
        """Internal bandwidth of the device, which nothing may beat."""
        return self.channels * self.channel_bytes_per_s


def read_pim_device(data: object, *, where: str) -> PimDevice:
    """Return the device that a YAML file describes; all keys but ``near_memory``, powers and ``sources`` are required.

    Raises
    ------
    InputError
        For a missing or unknown key, a value that is none, or more parallel banks than banks.
    """
    fields = Fields(data, where)
    energy, sources = fields.child("energy"), fields.child("sources")
    device = PimDevice(
        name=fields.text("name"),
        channels=fields.integer("channels"),
        banks=fields.integer("banks"),
        parallel_banks=fields.integer("parallel_banks"),
        access_bytes=fields.integer("access_bytes"),
        access_ns=fields.number("access_ns"),
        flops_per_channel=fields.number("gflops_per_channel") * 1e9,
        row_bytes=fields.integer("row_bytes"),
        row_switch_ns=fields.number("row_switch_ns"),
        command_ns=fields.number("command_ns"),
        external_bytes_per_s=fields.number("external_gb_per_s") * GB,
        capacity_bytes=round(fields.number("capacity_gib") * GIB),
        link_bytes_per_s=fields.number("link_gb_per_s") * GB,
        link_latency_ns=fields.number("link_latency_ns"),
        access_j_per_byte=energy.number("access_pj_per_bit") * 8e-12,
        external_j_per_byte=energy.number("external_pj_per_bit") * 8e-12,
        operation_j=energy.number("operation_pj") * 1e-12,
        near_memory=fields.flag("near_memory", False),
        idle_w=energy.number("idle_w") if "idle_w" in energy else None,
        peak_w=energy.number("peak_w") if "peak_w" in energy else None,
        sources={key: sources.text(key) for key in sources},
    )
    for part in (energy, fields):
        part.refuse_others()
    _check(device, where)
    return device


def _check(device: PimDevice, where: str) -> None:
    if device.parallel_banks > device.banks:
        raise InputError(f"parallel_banks ({device.parallel_banks}) is more than banks ({device.banks})", where=where)
    if device.access_bytes > device.row_bytes:
        raise InputError(
            f"access_bytes ({device.access_bytes}) is more than row_bytes ({device.row_bytes})", where=where
        )
    if device.idle_w is not None and device.peak_w is not None and device.idle_w > device.peak_w:
        raise InputError(f"idle_w ({device.idle_w:g}) is above peak_w ({device.peak_w:g})", where=f"{where}: energy")


def pim_device_names() -> list[str]:
    """Return the names of the built-in devices, sorted."""
    return sorted(path.stem for path in CATALOGUE.glob("*.yaml"))


def load_pim_device(
    name_or_path: str | Path, *, relative_to: Path | None = None, where: str | None = None
) -> PimDevice:
    """Return a built-in device, one that a YAML file describes, or one of LLMServingSim's ``.ini`` files.

    Raises
    ------
    InputError
        For an unknown name (with the nearest match), a missing file, or a file that is no device.
    """
    from servetwin.hardware.pim_ini import read_pim_ini

    text = str(name_or_path)
    names = {name.casefold(): name for name in pim_device_names()}
    if text.casefold() in names:
        path = CATALOGUE / f"{names[text.casefold()]}.yaml"
        return read_pim_device(read_document(path), where=str(path))
    path = (relative_to or Path()) / text
    if path.is_file():
        if path.suffix == ".ini":
            return read_pim_ini(path).device()
        return read_pim_device(read_document(path), where=str(path))
    if path.suffix in (".yaml", ".yml", ".json", ".ini"):
        raise InputError(f"no such file: {path}", where=where)
    raise unknown_name("PIM device", text, pim_device_names(), where=where)
