"""Topologies of machines that one can buy or rent, with their sources."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from servetwin.core.errors import InputError, unknown_name
from servetwin.network.base import Link
from servetwin.network.costs import CollectiveCosts, link_costs, plain_costs
from servetwin.network.links import link_class
from servetwin.network.topology import Level, LevelKind, Topology

NetworkKind = Literal["rail", "fat_tree", "switch", "none"]

_COSTS = {
    "nvlink3": "nvlink3",
    "nvlink4": "nvlink4",
    "nvlink5": "nvlink5",
    "infinity_fabric4": "nvlink4",  # no published coefficients: NVLink's of that time
    "infinity_fabric4_mi350": "nvlink4",
    "pcie_gen3": "pcie",
    "pcie_gen4": "pcie",
    "pcie_gen5": "pcie",
    "pcie_gen6": "pcie",
    "infiniband_hdr": "network",
    "infiniband_ndr": "network",
    "infiniband_xdr": "network",
    "ethernet_100g": "network",
    "ethernet_200g": "network",
    "ethernet_400g": "network",
}
"""Coefficients by class of link (`servetwin.network.links`)."""

_IN_SWITCH = ("nvlink4", "nvlink5")
"""NVLink SHARP: third-generation NVSwitch (Hopper) and later."""

_LEAF_NODES = 32
"""Nodes under one leaf switch: half of 64 ports."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A machine: what joins the accelerators of a node, and what a node has towards others.

    Attributes
    ----------
    link, network
        Classes of links; ``network`` is empty for a machine that is never more than one node.
    size
        Accelerators of a node.
    kind, shape, closed
        See `Level`.
    network_share
        Part of a network card that one accelerator has.
    """

    name: str
    link: str
    size: int
    kind: LevelKind
    source: str
    network: str = ""
    network_share: float = 1.0
    shape: tuple[int, ...] = ()
    closed: bool = True


def _slice(name: str, link: str, shape: tuple[int, ...], closed: bool, source: str) -> Preset:
    return Preset(name, link, math.prod(shape), "torus", source, shape=shape, closed=closed)


_V5E = "Google Cloud, TPU v5e documentation: 2D torus of 16 x 16, slices of it are open meshes"
_V6E = "Google Cloud, TPU v6e documentation: 2D torus of 16 x 16, slices of it are open meshes"
_V5P = "Google Cloud, TPU v5p documentation: 3D torus, closed where all sides are multiples of 4"

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "hgx_a100", "nvlink3", 8, "switch", "NVIDIA, DGX A100 user guide: 8 x 200 Gbit/s cards", "infiniband_hdr"
        ),
        Preset(
            "hgx_h100", "nvlink4", 8, "switch", "NVIDIA, DGX H100 user guide: 8 x 400 Gbit/s cards", "infiniband_ndr"
        ),
        Preset(
            "hgx_h200", "nvlink4", 8, "switch", "NVIDIA, DGX H200 user guide: 8 x 400 Gbit/s cards", "infiniband_ndr"
        ),
        Preset(
            "hgx_b200", "nvlink5", 8, "switch", "NVIDIA, DGX B200 user guide: 8 x 400 Gbit/s cards", "infiniband_ndr"
        ),
        Preset(
            "gb200_nvl72",
            "nvlink5",
            72,
            "switch",
            "NVIDIA, GB200 NVL72 data sheet; DGX GB200: 4 x 400 Gbit/s cards per tray of 4",
            "infiniband_ndr",
        ),
        Preset(
            "mi300x_platform",
            "infinity_fabric4",
            8,
            "fully_connected",
            "AMD, Instinct MI300X platform data sheet: 7 links per accelerator; 8 x 400 Gbit/s cards",
            "ethernet_400g",
        ),
        Preset(
            "mi355x_platform",
            "infinity_fabric4_mi350",
            8,
            "fully_connected",
            "AMD, Instinct MI355X platform data sheet: 7 links per accelerator; 8 x 400 Gbit/s cards",
            "ethernet_400g",
        ),
        Preset(
            "pcie_gen4_box", "pcie_gen4", 8, "switch", "8 cards; one network card of 100 Gbit/s", "ethernet_100g", 1 / 8
        ),
        Preset(
            "pcie_gen5_box", "pcie_gen5", 8, "switch", "8 cards; one network card of 400 Gbit/s", "ethernet_400g", 1 / 8
        ),
        _slice("tpu_v5e_2x4", "ici_v5e", (4, 2), False, _V5E),
        _slice("tpu_v5e_4x4", "ici_v5e", (4, 4), False, _V5E),
        _slice("tpu_v5e_16x16", "ici_v5e", (16, 16), True, _V5E),
        _slice("tpu_v6e_2x4", "ici", (4, 2), False, _V6E),
        _slice("tpu_v6e_4x4", "ici", (4, 4), False, _V6E),
        _slice("tpu_v6e_16x16", "ici", (16, 16), True, _V6E),
        _slice("tpu_v5p_2x2x1", "ici_v5p", (2, 2, 1), False, _V5P),
        _slice("tpu_v5p_4x4x4", "ici_v5p", (4, 4, 4), True, _V5P),
        _slice("tpu_v5p_8x8x8", "ici_v5p", (8, 8, 8), True, _V5P),
    )
}
"""Presets by name."""


def preset_topology(
    name: str, nodes: int = 1, network: str = "rail", oversubscription: float = 1.0, *, where: str | None = None
) -> Topology:
    """Return the topology of ``nodes`` machines called ``name``.

    Parameters
    ----------
    network
        What joins them: ``rail`` (a switch per position in the node), ``fat_tree`` (leaf switches of 32 nodes under a
        spine that is ``oversubscription`` times narrower), ``switch`` (one for all), or ``none``.

    Raises
    ------
    InputError
        For an unknown name or network, or a machine that has no network.
    """
    if name not in PRESETS:
        raise unknown_name("topology", name, PRESETS, where=where)
    preset = PRESETS[name]
    inner = link_level(preset.link, preset.size, kind=preset.kind)
    if preset.kind == "torus":
        inner = replace(inner, kind="torus", shape=preset.shape, closed=preset.closed)
    return join_nodes([inner], nodes, network, preset.network, preset.network_share, oversubscription, name)


def link_level(name: str, size: int, bandwidth_bytes_per_s: float | None = None, kind: LevelKind = "switch") -> Level:
    """Return ``size`` accelerators joined by links of class ``name``, with that class's costs.

    Parameters
    ----------
    bandwidth_bytes_per_s
        Of one accelerator, one direction; None for the class's own.

    Raises
    ------
    InputError
        If there is no such class.
    """
    link = link_class(name).link
    direct = 2 if name.startswith("pcie") else 0 if _is_network(name) or name.startswith("ici") else 8
    return Level(
        name=name,
        size=size,
        bandwidth_bytes_per_s=bandwidth_bytes_per_s or link.bandwidth_bytes_per_s,
        kind="ring" if kind == "torus" else kind,
        latency_ns=0.0 if name in _COSTS else link.latency_ns,
        in_switch_reduction=name in _IN_SWITCH and kind == "switch",
        one_kernel_ranks=direct,
        trees=_is_network(name),
        costs=_costs(name, link),
    )


def join_nodes(
    inner: Sequence[Level],
    nodes: int,
    network: str,
    link: str,
    share: float = 1.0,
    oversubscription: float = 1.0,
    name: str = "topology",
) -> Topology:
    """Return ``nodes`` nodes of levels ``inner``, joined by a ``network`` of links of class ``link``.

    Raises
    ------
    InputError
        For an unknown network, or none where one is asked for.
    """
    if network not in get_args(NetworkKind):
        raise unknown_name("network", network, get_args(NetworkKind), where=name)
    if nodes == 1 or network == "none":
        return Topology(tuple(inner), nodes, name)
    if not link:
        raise InputError(f"{name} is one node of {inner[0].size}; it has no network that joins {nodes}", where=name)
    outer = link_level(link, nodes)
    outer = replace(outer, name="network", bandwidth_bytes_per_s=outer.bandwidth_bytes_per_s * share)
    if network == "rail":
        outer = replace(outer, kind="rail")
    elif network == "fat_tree":
        leaf = min(_LEAF_NODES, nodes)
        outer = replace(outer, kind="fat_tree", leaf=leaf, oversubscription=oversubscription)
    return Topology((*inner, outer), 1, name)


@dataclass(frozen=True, slots=True)
class ScaleUp:
    """Accelerators joined by links between them whose protocols are known, all on one level.

    Attributes
    ----------
    topology
        One level.
    node
        The machine of such links that was taken for it, and how many it really has.
    """

    topology: Topology
    node: Preset


def scale_up(name: str, bandwidth_bytes_per_s: float, accelerators: int) -> ScaleUp | None:
    """Return ``accelerators`` joined by links of class ``name``; None where nothing is known of its protocols.

    The level is that of the smallest machine with such links. More accelerators than that machine has are taken to be
    joined by a switch. Links slower than their class's are bridges between cards, which have no switch that adds up.

    Raises
    ------
    InputError
        If there is no such class.
    """
    link = link_class(name).link
    nodes = [preset for preset in PRESETS.values() if preset.link == name]
    if name not in _COSTS or name.startswith("pcie") or not nodes:
        return None
    node = min(nodes, key=lambda preset: preset.size)
    kind = node.kind if accelerators <= node.size else "switch"
    level = link_level(name, max(node.size, accelerators), bandwidth_bytes_per_s, kind)
    if bandwidth_bytes_per_s < link.bandwidth_bytes_per_s:
        level = replace(level, in_switch_reduction=False)
    return ScaleUp(Topology((level,), name=name), node)


def _is_network(name: str) -> bool:
    return name.startswith(("infiniband", "ethernet"))


def _costs(name: str, link: Link) -> CollectiveCosts:
    if name in _COSTS:
        return link_costs(_COSTS[name])
    return plain_costs(link.operation_ns)
