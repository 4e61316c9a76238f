"""Link classes with their default bandwidth and latency, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

from servetwin.core.errors import unknown_name
from servetwin.core.units import GB
from servetwin.network.base import Link

# Latency of one message of a ring. NCCL's own tuning model (src/graph/tuning.cc; ring, protocol Simple) has 8.4 us per
# operation and, per step, 3.4 us over NVLink, 5.7 us over PCIe, 14.0 us over a network. It is fitted to operations that
# run back to back; between a model's kernels each also starts and ends a kernel and waits for ranks that do not arrive
# together: 4.2 us. We charge per message, so both are spread over the two messages of the smallest ring (two ranks).
_OPERATION_US = 8.4 + 4.2
_NVLINK_NS = 1000 * (_OPERATION_US / 2 + 3.4)
_PCIE_NS = 1000 * (_OPERATION_US / 2 + 5.7)
_NETWORK_NS = 1000 * (_OPERATION_US / 2 + 14.0)


@dataclass(frozen=True, slots=True)
class LinkClass:
    """A kind of link: its defaults and where they come from."""

    name: str
    link: Link
    source: str


def _nvlink(name: str, gb_per_s: float, device: str) -> LinkClass:
    rate = f"{gb_per_s:g} GB/s per direction, {device} data sheet"
    return LinkClass(
        name, Link(gb_per_s * GB, _NVLINK_NS), f"{rate}; latency: NCCL's tuning model (NVLink) and a kernel's start"
    )


def _other(name: str, gb_per_s: float, device: str) -> LinkClass:
    rate = f"{gb_per_s:g} GB/s per direction, {device}"
    return LinkClass(name, Link(gb_per_s * GB, _NVLINK_NS), f"{rate}; latency: no published figure, taken as NVLink's")


def _pcie(name: str, gb_per_s: float, raw: str) -> LinkClass:
    rate = f"{gb_per_s:g} GB/s: {raw}, less packet headers (about 80 % of it)"
    return LinkClass(
        name, Link(gb_per_s * GB, _PCIE_NS), f"{rate}; latency: NCCL's tuning model (PCI) and a kernel's start"
    )


def _network(name: str, gb_per_s: float, raw: str) -> LinkClass:
    return LinkClass(
        name, Link(gb_per_s * GB, _NETWORK_NS), f"{raw}; latency: NCCL's tuning model (network) and a kernel's start"
    )


LINK_CLASSES: dict[str, LinkClass] = {
    entry.name: entry
    for entry in (
        _nvlink("nvlink2", 150, "V100 SXM (300 GB/s both ways)"),
        _nvlink("nvlink3", 300, "A100 SXM (600 GB/s both ways)"),
        _nvlink("nvlink3_bridge", 56.25, "RTX A6000 bridge (112.5 GB/s both ways)"),
        _nvlink("nvlink4", 450, "H100 and H200 SXM (900 GB/s both ways)"),
        _nvlink("nvlink5", 900, "B200 SXM (1,800 GB/s both ways)"),
        _other("infinity_fabric4", 448, "MI300X data sheet (7 links of 128 GB/s both ways)"),
        _other("ici", 400, "TPU v6e documentation (800 GB/s both ways)"),
        _pcie("pcie_gen3", 12.5, "16 lanes of 8 GT/s are 15.8 GB/s per direction"),
        _pcie("pcie_gen4", 25, "16 lanes of 16 GT/s are 31.5 GB/s per direction"),
        _pcie("pcie_gen5", 50, "16 lanes of 32 GT/s are 63 GB/s per direction"),
        _network("infiniband_ndr", 50, "NDR: 400 Gbit/s per port"),
        _network("ethernet_100g", 12.5, "100 Gbit/s per port"),
    )
}


def link_class(name: str, *, where: str | None = None) -> LinkClass:
    """Return the link class called ``name``.

    Raises
    ------
    InputError
        If there is none; it names the nearest match and what exists.
    """
    if name not in LINK_CLASSES:
        raise unknown_name("link class", name, LINK_CLASSES, where=where)
    return LINK_CLASSES[name]
