"""Links, the cost of collectives, and flows that share links."""

from servetwin.network.base import Collectives, Link
from servetwin.network.collectives import LssRing, Ring
from servetwin.network.flow_graph import DirectedLink, FlowGraph
from servetwin.network.flows import FlowNetwork
from servetwin.network.link_use import LinkUse
from servetwin.network.links import LINK_CLASSES, LinkClass, link_class

__all__ = [
    "LINK_CLASSES",
    "Collectives",
    "DirectedLink",
    "FlowGraph",
    "FlowNetwork",
    "Link",
    "LinkClass",
    "LinkUse",
    "LssRing",
    "Ring",
    "link_class",
]
