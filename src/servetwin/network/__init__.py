"""Links, topologies, the cost of collectives on them, and flows that share links."""

from servetwin.network import factories as _factories  # noqa: F401  (registers collectives by name)
from servetwin.network.base import Collectives, Link
from servetwin.network.collectives import Ring
from servetwin.network.flow_graph import DirectedLink, FlowGraph
from servetwin.network.flows import FlowNetwork
from servetwin.network.link_use import LinkUse
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
    "DirectedLink",
    "FlowGraph",
    "FlowNetwork",
    "Level",
    "Link",
    "LinkClass",
    "LinkUse",
    "LssDimension",
    "LssRing",
    "MeasuredCollectives",
    "Ring",
    "Topology",
    "TopologyCollectives",
    "link_class",
    "preset_topology",
]
