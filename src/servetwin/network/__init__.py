"""Links and the cost of collectives."""

from servetwin.network.base import Collectives, Link
from servetwin.network.collectives import Ring
from servetwin.network.links import LINK_CLASSES, LinkClass, link_class
from servetwin.network.lss import LssDimension, LssRing

__all__ = ["LINK_CLASSES", "Collectives", "Link", "LinkClass", "LssDimension", "LssRing", "Ring", "link_class"]
