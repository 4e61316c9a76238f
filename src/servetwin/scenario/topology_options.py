"""Options of a topology: how the accelerators of a replica are joined."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from servetwin.core.errors import InputError
from servetwin.core.units import GB
from servetwin.network.presets import link_level, preset_topology
from servetwin.network.topology import Level, Topology
from servetwin.scenario.base import Options


class LevelOptions(Options):
    """One level: what joins a number of units of the level below (accelerators, at the first)."""

    size: int = Field(ge=1, le=2**20, description="Units that it joins.")
    link: str = Field(description="Class of its links (`servetwin list links`): latency, and what protocols cost.")
    kind: Literal["switch", "fully_connected", "ring", "torus", "rail", "fat_tree"] = Field(
        "switch",
        description="`switch` (any pair at full bandwidth), `fully_connected` (a link per pair), `ring`, `torus`, "
        "`rail` (a switch per position in the unit below), `fat_tree` (leaf switches under a narrower spine).",
    )
    bandwidth_gb_per_s: float | None = Field(
        None, gt=0, le=1e6, description="Of one accelerator at this level, per direction; default: the class's."
    )
    latency_ns: float | None = Field(None, ge=0, le=1e9, description="Latency of a message; default: the class's.")
    shape: Annotated[tuple[int, ...], Field(strict=False)] = Field((), description="Of a torus: its dimensions.")
    leaf: int = Field(0, ge=0, description="Of a fat tree: units under one leaf switch.")
    oversubscription: float = Field(1.0, ge=1, le=1e4, description="Of a fat tree: how much narrower its spine is.")
    in_switch_reduction: bool | None = Field(
        None, description="Whether its switches add up (NVLink SHARP, SHARP); default: NVLink switches from Hopper on."
    )

    @model_validator(mode="after")
    def _check(self) -> LevelOptions:
        options = {"shape": ("torus", self.shape), "leaf": ("fat_tree", self.leaf)}
        options["oversubscription"] = ("fat_tree", self.oversubscription != 1)
        for name, (kind, given) in options.items():
            if given and self.kind != kind:
                raise PydanticCustomError(
                    "level", "{name} belongs to kind: {owner}; this level is a {kind}",
                    {"name": name, "owner": kind, "kind": self.kind},
                )  # fmt: skip
        return self


class TopologyOptions(Options):
    """A preset's name with a number of machines, or levels of your own."""

    preset: str | None = Field(None, description="Name of a machine (`servetwin list topologies`).")
    nodes: int = Field(1, ge=1, le=2**20, description="Machines.")
    network: Literal["rail", "fat_tree", "switch", "none"] = Field(
        "rail", description="What joins a preset's machines."
    )
    oversubscription: float = Field(1.0, ge=1, le=1e4, description="How much narrower a fat tree's spine is.")
    levels: Annotated[tuple[LevelOptions, ...], Field(strict=False)] = Field(
        (), description="Levels of your own, innermost first."
    )

    @model_validator(mode="after")
    def _check(self) -> TopologyOptions:
        if (self.preset is None) == (not self.levels):
            raise PydanticCustomError("topology", "either preset or levels is needed, and not both")
        if self.levels and (self.network != "rail" or self.oversubscription != 1):
            raise PydanticCustomError(
                "topology", "network and oversubscription say what joins a preset's machines; add a level instead"
            )
        if self.oversubscription != 1 and self.network != "fat_tree":
            raise PydanticCustomError(
                "topology", "oversubscription needs network: fat_tree, not {network}", {"network": self.network}
            )
        return self

    def build(self, where: str) -> Topology:
        """Return the topology.

        Raises
        ------
        InputError
            For an unknown preset or link class, or levels that cannot be.
        """
        if self.preset is not None:
            return preset_topology(self.preset, self.nodes, self.network, self.oversubscription, where=where)
        levels = [_level(options, f"{where}.levels[{i}]") for i, options in enumerate(self.levels)]
        return Topology(tuple(levels), self.nodes)


def _level(options: LevelOptions, where: str) -> Level:
    changes: dict[str, Any] = {
        "kind": options.kind,
        "shape": options.shape,
        "leaf": options.leaf,
        "oversubscription": options.oversubscription,
    }
    if options.latency_ns is not None:
        changes["latency_ns"] = options.latency_ns
    if options.in_switch_reduction is not None:
        changes["in_switch_reduction"] = options.in_switch_reduction
    bandwidth = None if options.bandwidth_gb_per_s is None else options.bandwidth_gb_per_s * GB
    try:
        return replace(link_level(options.link, options.size, bandwidth), **changes)
    except InputError as error:
        raise InputError(str(error), where=where) from None


def _by_name(value: Any) -> Any:
    return {"preset": value} if isinstance(value, str) else value


TopologyField: TypeAlias = Annotated[TopologyOptions, BeforeValidator(_by_name)]
