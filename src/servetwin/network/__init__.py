"""Links, topologies, and the cost of collectives on them."""

from servetwin.network import factories as _factories  # noqa: F401  (registers collectives by name)
from servetwin.network.base import Collectives, Link
from servetwin.network.collectives import Ring
from servetwin.network.links import LINK_CLASSES, LinkClass, link_class
from servetwin.network.lss import LssDimension, LssRing
from servetwin.network.measured import MeasuredCollectives
from servetwin.network.presets import PRESETS, preset_topology
from servetwin.network.topology import Level, Topology
from servetwin.network.topology_collectives import TopologyCollectives

__all__ = [
    "LINK_CLASSES",
    "PRESETS",
    "Collectives",
    "Level",
    "Link",
    "LinkClass",
    "LssDimension",
    "LssRing",
    "MeasuredCollectives",
    "Ring",
    "Topology",
    "TopologyCollectives",
    "link_class",
    "preset_topology",
]
