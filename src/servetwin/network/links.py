"""Link classes with their default bandwidth and latency, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

from servetwin.core.errors import unknown_name
from servetwin.core.units import GB
from servetwin.network.base import Link

# NCCL's own tuning model (src/graph/tuning.cc; ring, protocol LL, the one for small messages) has 6.6 us per operation
# and, per step, 0.6 us over NVLink, 1.0 us over PCIe, 5.0 us over a network; fitted to operations back to back.
#
# Over NVLink vLLM does not call NCCL for small messages: its own kernel reads the peers' memory. The tables of
# aiconfigurator-core 0.12 (vLLM 0.24, H100, in a CUDA graph) have 4.3, 4.7 and 5 us for few bytes on 2, 4 and 8 ranks.
#
# Over PCIe and networks NCCL is called between a model's kernels: it starts a kernel, passes data through host memory
# and waits for ranks that do not arrive together. Published times of small all-reduces over PCIe inside CUDA graphs
# are 15 to 25 us for two to four ranks, and 36 us for sixteen; in a server it is more. 32 us for two ranks, whatever
# their bytes, is what decode steps of vLLM 0.19 on two RTX PRO 6000 leave (Qwen3-32B, 128 sequences: 1,033 steps
# between logged first and last tokens take 60.1 ms on average; the profile, 600 us of host and 128 all-reduces
# of 24 us give 59.3 ms, of 32 us 60.3 ms).
_NVLINK_NS, _NVLINK_OPERATION_NS = 100.0, 4_000.0
_PCIE_NS, _PCIE_OPERATION_NS = 1_000.0, 30_000.0
_NETWORK_NS, _NETWORK_OPERATION_NS = 5_000.0, 30_000.0


@dataclass(frozen=True, slots=True)
class LinkClass:
    """A kind of link: its defaults and where they come from."""

    name: str
    link: Link
    source: str


def _nvlink(name: str, gb_per_s: float, device: str) -> LinkClass:
    rate = f"{gb_per_s:g} GB/s per direction, {device} data sheet"
    link = Link(gb_per_s * GB, _NVLINK_NS, _NVLINK_OPERATION_NS)
    return LinkClass(name, link, f"{rate}; latency: vLLM's one-kernel all-reduce")


def _other(name: str, gb_per_s: float, device: str) -> LinkClass:
    rate = f"{gb_per_s:g} GB/s per direction, {device}"
    link = Link(gb_per_s * GB, _NVLINK_NS, _NVLINK_OPERATION_NS)
    return LinkClass(name, link, f"{rate}; latency: no published figure, taken as NVLink's")


def _pcie(name: str, gb_per_s: float, raw: str) -> LinkClass:
    rate = f"{gb_per_s:g} GB/s: {raw}, less packet headers (about 80 % of it)"
    link = Link(gb_per_s * GB, _PCIE_NS, _PCIE_OPERATION_NS)
    return LinkClass(name, link, f"{rate}; latency: NCCL's tuning model, PCI, and an operation's start in a server")


def _network(name: str, gb_per_s: float, raw: str) -> LinkClass:
    link = Link(gb_per_s * GB, _NETWORK_NS, _NETWORK_OPERATION_NS)
    return LinkClass(name, link, f"{raw}; latency: NCCL's tuning model, network, and an operation's start as over PCIe")


LINK_CLASSES: dict[str, LinkClass] = {
    entry.name: entry
    for entry in (
        _nvlink("nvlink_c2c", 450, "Grace to GPU in a superchip (900 GB/s both ways)"),
        _nvlink("nvlink2", 150, "V100 SXM (300 GB/s both ways)"),
        _nvlink("nvlink3", 300, "A100 SXM (600 GB/s both ways)"),
        _nvlink("nvlink3_bridge", 56.25, "RTX A6000 bridge (112.5 GB/s both ways)"),
        _nvlink("nvlink4", 450, "H100 and H200 SXM (900 GB/s both ways)"),
        _nvlink("nvlink5", 900, "B200 SXM (1,800 GB/s both ways)"),
        _other("infinity_fabric3", 300, "MI250 data sheet (6 links of 100 GB/s both ways)"),
        _other("infinity_fabric4", 448, "MI300X data sheet (7 links of 128 GB/s both ways)"),
        _other("infinity_fabric4_mi350", 537.6, "MI355X data sheet (7 links of 153.6 GB/s both ways)"),
        _other("ici", 400, "TPU v6e documentation (800 GB/s both ways)"),
        _other("ici_v5e", 200, "TPU v5e documentation (400 GB/s both ways)"),
        _other("ici_v5p", 600, "TPU v5p documentation (4,800 Gbit/s)"),
        _other("xe_link", 424, "Max 1550 technical overview (16 links of 26.5 GB/s; not confirmed)"),
        _other("hccs", 196, "Ascend 910B (392 GB/s both ways by vendors' listings; not confirmed)"),
        _other("ub_cloudmatrix", 392, "Ascend 910C in a CloudMatrix384 (arXiv 2506.12708)"),
        _pcie("pcie_gen3", 12.5, "16 lanes of 8 GT/s are 15.8 GB/s per direction"),
        _pcie("pcie_gen4", 25, "16 lanes of 16 GT/s are 31.5 GB/s per direction"),
        _pcie("pcie_gen5", 50, "16 lanes of 32 GT/s are 63 GB/s per direction"),
        _pcie("pcie_gen6", 100, "16 lanes of 64 GT/s are 126 GB/s per direction"),
        _network("roce_gaudi2", 262.5, "21 ports of 100 Gbit/s RoCE, Intel Gaudi 2 white paper"),
        _network("roce_gaudi3", 525, "21 ports of 200 Gbit/s RoCE, Intel Gaudi 3 white paper"),
        _network("infiniband_hdr", 25, "HDR: 200 Gbit/s per port"),
        _network("infiniband_ndr", 50, "NDR: 400 Gbit/s per port"),
        _network("infiniband_xdr", 100, "XDR: 800 Gbit/s per port"),
        _network("ethernet_100g", 12.5, "100 Gbit/s per port"),
        _network("ethernet_200g", 25, "200 Gbit/s per port, RoCE v2"),
        _network("ethernet_400g", 50, "400 Gbit/s per port, RoCE v2"),
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
