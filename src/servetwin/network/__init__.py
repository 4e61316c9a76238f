"""Links and the cost of collectives."""

from servetwin.network.base import Collectives, Link
from servetwin.network.collectives import LssRing, Ring
from servetwin.network.links import LINK_CLASSES, LinkClass, link_class

__all__ = ["LINK_CLASSES", "Collectives", "Link", "LinkClass", "LssRing", "Ring", "link_class"]
