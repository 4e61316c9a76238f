"""Collectives by name: the cheapest algorithm, one that is asked for, or measured tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from servetwin.core.errors import InputError
from servetwin.network.aiconfigurator import TABLES_VARIABLE, aiconfigurator_curves, tables_folder
from servetwin.network.algorithms import ALGORITHMS, NCCL_ALGORITHMS
from servetwin.network.base import Collectives, Link, collectives
from servetwin.network.measured import MeasuredCollectives, read_measured
from servetwin.network.topology import Topology, single_switch
from servetwin.network.topology_collectives import TopologyCollectives


@collectives.register("auto")
def auto(link: Link, topology: Topology | None = None) -> TopologyCollectives:
    """Take the cheapest algorithm of NCCL or of vLLM's own all-reduce, on a topology.

    Without one, on a switch of plain links: none of them is known for protocols or for reading peers' memory.
    """
    return TopologyCollectives(topology or single_switch(link))


@collectives.register("nccl")
def nccl(link: Link, topology: Topology | None = None) -> TopologyCollectives:
    """Take the cheapest algorithm of NCCL alone, on a topology or a switch of plain links."""
    return TopologyCollectives(topology or single_switch(link), NCCL_ALGORITHMS)


def _named(name: str) -> Callable[..., TopologyCollectives]:
    def factory(link: Link, topology: Topology | None = None) -> TopologyCollectives:
        return TopologyCollectives(topology or single_switch(link, one_kernel_ranks=8), algorithm=name)

    summary = ALGORITHMS[name].summary
    factory.__doc__ = f"""{summary[0].upper()}{summary[1:]}.

    Operations that it does not define are done by the cheapest algorithm.
    """
    return factory


for _name in ("tree", "recursive_doubling", "halving_doubling", "one_shot", "two_shot", "in_switch"):
    collectives.register(_name)(_named(_name))
collectives.register("topology_ring")(_named("ring"))


@collectives.register("measured")
def measured(link: Link, path: str, topology: Topology | None = None, folder: Path = Path()) -> Collectives:
    """Take measured times from a CSV file; what it does not have, by ``auto``.

    Parameters
    ----------
    path
        Of the file, relative to the scenario's: operation, ranks, bytes, time_us and, if need be, stride.
    """
    return MeasuredCollectives(read_measured(folder / path), auto(link, topology), where=path)


@collectives.register("aiconfigurator")
def aiconfigurator(link: Link, system: str, nccl_only: bool = False, topology: Topology | None = None) -> Collectives:
    """Take the tables of the PyPI package aiconfigurator-core 0.12; what they lack, by ``auto``.

    Parameters
    ----------
    system
        As the package names it: ``h100_sxm``.
    nccl_only
        Whether to take NCCL's all-reduce instead of vLLM's own.
    """
    folder = tables_folder()
    if folder is None:
        raise InputError(f"install aiconfigurator-core 0.12, or set {TABLES_VARIABLE} to its systems/data")
    curves = aiconfigurator_curves(folder, system, nccl_only=nccl_only)
    return MeasuredCollectives(curves, auto(link, topology), where=str(folder / system))
