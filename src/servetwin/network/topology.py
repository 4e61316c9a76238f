"""A topology: levels of links, innermost first, and where a group of ranks lies on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from servetwin.core.errors import InputError, unknown_name
from servetwin.network.base import Link
from servetwin.network.costs import PLAIN, CollectiveCosts, plain_costs

LevelKind = Literal["switch", "fully_connected", "ring", "torus", "rail", "fat_tree"]

MESHES = ("ring", "torus")
"""Kinds in which an accelerator reaches only its neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of a topology: what joins ``size`` units of the level below (accelerators, at the innermost).

    Attributes
    ----------
    name
        For messages ("nvlink", "network").
    kind
        ``switch``: any pair at full bandwidth. ``fully_connected``: a link per pair, so that a group of ``n`` uses
        ``n - 1`` of an accelerator's ``size - 1`` links. ``ring`` and ``torus``: links to neighbours. A group that
        covers a closed dimension whole has a ring there; else it has a line, and half the bandwidth. ``rail``: a
        switch per position in the unit; traffic between positions first moves within the unit. ``fat_tree``: leaf
        switches of ``leaf`` units, joined by a spine ``oversubscription`` times narrower.
    size
        Units.
    bandwidth_bytes_per_s
        Of one accelerator at this level: all its links together, one direction. A network card that a node's
        accelerators share counts in shares.
    latency_ns
        Of a message, beyond what ``costs`` counts per step.
    shape
        Of a torus: its dimensions, innermost first.
    closed
        Of a ring or torus: whether the last unit of a dimension is linked to the first.
    leaf, oversubscription
        Of a fat tree.
    in_switch_reduction
        Whether its switches add up and multicast (NVLink SHARP, SHARP).
    one_kernel_ranks
        Up to how many ranks an engine's own kernel reads peers' memory directly; 0: never.
    trees
        Whether libraries use trees here (NCCL: between nodes; inside a node its trees are chains).
    costs
        What protocols cost on such links.
    """

    name: str
    size: int
    bandwidth_bytes_per_s: float
    kind: LevelKind = "switch"
    latency_ns: float = 0.0
    shape: tuple[int, ...] = ()
    closed: bool = True
    leaf: int = 0
    oversubscription: float = 1.0
    in_switch_reduction: bool = False
    one_kernel_ranks: int = 0
    trees: bool = False
    costs: CollectiveCosts = PLAIN

    def __post_init__(self) -> None:
        Link(self.bandwidth_bytes_per_s, self.latency_ns)  # refuses what no link can be
        if self.kind not in get_args(LevelKind):
            raise unknown_name("kind of level", self.kind, get_args(LevelKind), where=self.name)
        if self.size < 1:
            raise InputError(f"a level joins at least 1 unit, got {self.size}", where=self.name)
        if self.kind == "torus" and math.prod(self.shape) != self.size:
            raise InputError(f"a torus of shape {self.shape} has {math.prod(self.shape)} units, not {self.size}")
        if not (math.isfinite(self.oversubscription) and self.oversubscription >= 1):
            raise InputError(f"an oversubscription is at least 1, got {self.oversubscription!r}", where=self.name)
        if self.kind == "fat_tree" and not 1 <= self.leaf <= self.size:
            raise InputError(f"a leaf switch has 1 to {self.size} units, got {self.leaf}", where=self.name)

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The dimensions of a ring or torus."""
        return self.shape or (self.size,)


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a group on one level.

    Attributes
    ----------
    level
        The level.
    ranks
        Units of it that take part, at least 2.
    members
        The group's ranks in one such unit.
    bandwidth_bytes_per_s
        What each member can use here.
    sides
        Of a ring or torus: the covered dimensions as (units, whether the ring is closed).
    """

    level: Level
    ranks: int
    members: int
    bandwidth_bytes_per_s: float
    sides: tuple[tuple[int, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Way:
    """One level on the way of a message: its hops there, and the bandwidth that one message gets."""

    level: Level
    hops: int
    bandwidth_bytes_per_s: float


@dataclass(frozen=True)
class Topology:
    """Levels of links, innermost first; ``nodes`` of the whole stand side by side without a link between them.

    Accelerators are numbered along the levels, innermost fastest. The ranks of a group are laid from number 0 on: all
    groups of a deployment are taken to lie alike, and to be busy at once.
    """

    levels: Sequence[Level]
    nodes: int = 1
    name: str = "topology"

    def __post_init__(self) -> None:
        if not self.levels:
            raise InputError("a topology has at least one level", where=self.name)
        if self.nodes < 1:
            raise InputError(f"a topology has at least 1 node, got {self.nodes}", where=self.name)

    @property
    def linked(self) -> int:
        """Accelerators that links join."""
        return math.prod(level.size for level in self.levels)

    @property
    def devices(self) -> int:
        """All accelerators."""
        return self.linked * self.nodes

    def with_outer_share(self, share: float) -> Topology:
        """Return the topology with a share of the bandwidth of its outermost level."""
        outer = self.levels[-1]
        slower = replace(outer, bandwidth_bytes_per_s=outer.bandwidth_bytes_per_s * share)
        return replace(self, levels=(*self.levels[:-1], slower))

    def check_group(self, ranks: int, stride: int = 1) -> None:
        """Refuse a group that the topology cannot hold.

        Raises
        ------
        InputError
            If it has fewer than 1 rank or a stride below 1, needs more accelerators than there are, or spans nodes
            that no link joins.
        """
        if ranks < 1 or stride < 1:
            raise InputError(f"a group has at least 1 rank and a stride of at least 1, got {ranks} and {stride}")
        needed = (ranks - 1) * stride + 1
        if needed <= self.linked:
            return
        group = f"{ranks} ranks, {stride} apart, need {needed} accelerators"
        allowed = f"at most {(self.linked - 1) // stride + 1} ranks, {stride} apart"
        if needed > self.devices:
            raise InputError(f"{group}; there are {self.devices}: {allowed}", where=self.name)
        spanned = -(-needed // self.linked)
        raise InputError(
            f"{group} and span {spanned} nodes of {self.linked} that no link joins: {allowed}, "
            "or give the topology a level that joins the nodes",
            where=self.name,
        )

    def spans(self, ranks: int, stride: int = 1) -> tuple[Span, ...]:
        """Return the levels that a group lies on, innermost first; a group that fills a unit in part counts as whole.

        Raises
        ------
        InputError
            As `check_group`.
        """
        self.check_group(ranks, stride)
        found, members, below = [], 1, 1
        for level in self.levels:
            above = below * level.size
            reached = min(ranks, -(-above // stride))
            units = -(-reached // members)
            if units > 1:
                found.append(_span(level, units, members, max(1, stride // below)))
            members, below = max(members, reached), above
        return tuple(found)

    def route(self, distance: int) -> tuple[Way, ...]:
        """Return the levels that a message to the accelerator ``distance`` further crosses, outermost first.

        It takes the outermost level that the distance leads across. On rails, a message to another position in the
        other unit first moves within its own.

        Raises
        ------
        InputError
            If there is no such accelerator, or no link to it.
        """
        self.check_group(2, distance)
        below = [math.prod(level.size for level in self.levels[:i]) for i in range(len(self.levels))]
        outer = max(i for i, size in enumerate(below) if size <= distance and self.levels[i].size > 1)
        way = [_way(self.levels[outer], distance // below[outer])]
        if self.levels[outer].kind == "rail" and distance % below[outer]:
            way += self.route(distance % below[outer])
        return tuple(way)


def _way(level: Level, units: int) -> Way:
    rate = level.bandwidth_bytes_per_s
    if level.kind == "fully_connected":
        return Way(level, 1, rate / (level.size - 1))
    if level.kind == "fat_tree":
        return Way(level, 1, rate if units < level.leaf else rate / level.oversubscription)
    if level.kind not in MESHES:
        return Way(level, 1, rate)
    hops = 0
    for size in level.dimensions:
        units, along = divmod(units, size)
        hops += min(along, size - along) if level.closed else along
    return Way(level, hops, rate / (2 * len(level.dimensions)))


def _span(level: Level, units: int, members: int, step: int) -> Span:
    """Return the span of ``units`` units that are ``step`` units apart."""
    rate = level.bandwidth_bytes_per_s
    if level.kind == "fully_connected":
        return Span(level, units, members, rate * (units - 1) / (level.size - 1))
    if level.kind == "fat_tree" and (units - 1) * step >= level.leaf:
        return Span(level, units, members, rate / level.oversubscription)
    if level.kind not in MESHES:
        return Span(level, units, members, rate)
    sides = _sides(level, units, step)
    share = sum(1.0 if closed else 0.5 for _, closed in sides) / len(level.dimensions)
    return Span(level, units, members, rate * share, sides)


def _sides(level: Level, units: int, step: int) -> tuple[tuple[int, bool], ...]:
    """Return the dimensions that a group covers, each with whether it has a closed ring there.

    One that does not lie along dimensions (a stride that does not divide them) is a line.
    """
    found, left, below = [], units, 1
    for size in level.dimensions:
        along = min(left, max(1, below * size // max(step, below)))
        if along > 1:
            found.append((along, level.closed and along == size))
            left = -(-left // along)
        below *= size
    covered = math.prod(along for along, _ in found)
    return tuple(found) if covered >= units else ((units, False),)


def single_switch(link: Link, one_kernel_ranks: int = 0, size: int = 1 << 20) -> Topology:
    """Return ``size`` accelerators behind one switch, with a link's own figures and no protocol's."""
    costs = plain_costs(link.operation_ns)
    level = Level(
        name="link",
        size=size,
        bandwidth_bytes_per_s=link.bandwidth_bytes_per_s,
        latency_ns=link.latency_ns,
        one_kernel_ranks=one_kernel_ranks,
        trees=True,
        costs=costs,
    )
    return Topology((level,), name="link")
