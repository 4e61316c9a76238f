"""Which experts get copies, and which rank holds them, so that loads become even.

The greedy rules of DeepSeek's expert-parallelism load balancer, which vLLM 0.19 follows: give the next copy to the
expert whose copies are loaded most; put the copies, the heaviest first, on the rank that has least and still has a free
slot. With several nodes, first whole groups of experts on nodes, then each node by itself.
"""

from __future__ import annotations

import numpy as np

from servetwin.step.experts.base import Floats
from servetwin.step.experts.placements import Integers


def pack(weights: Floats, num_packs: int) -> list[list[int]]:
    """Put items into packs of equal number and nearly equal weight; the number of items is a multiple of the packs."""
    room = len(weights) // num_packs
    if room == 1:
        return [[item] for item in range(len(weights))]
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    loads = np.zeros(num_packs)
    for item in np.argsort(-weights, kind="stable").tolist():
        lightest = int(np.argmin(loads))
        packs[lightest].append(item)
        loads[lightest] += weights[item]
        if len(packs[lightest]) == room:
            loads[lightest] = np.inf
    return packs


def replicate(weights: Floats, num_copies: int) -> tuple[Integers, Integers]:
    """Return the expert of each of ``num_copies`` copies (each expert has one at least), and the copies of each."""
    copies = np.ones(len(weights), dtype=np.int64)
    experts = list(range(len(weights)))
    for _ in range(num_copies - len(weights)):
        busiest = int(np.argmax(weights / copies))
        experts.append(busiest)
        copies[busiest] += 1
    return np.array(experts), copies


def balanced_ranks(
    weights: Floats, num_copies: int, num_ranks: int, num_groups: int, num_nodes: int
) -> list[list[int]]:
    """Return the experts that each rank holds.

    Parameters
    ----------
    weights
        Load of each expert, in any unit.
    num_copies
        Copies of all experts together; a multiple of the ranks.
    num_ranks, num_nodes
        Ranks are a multiple of nodes.
    num_groups
        Groups of neighbouring experts. Where they are no multiple of the nodes, nodes are not regarded.
    """
    if num_groups % num_nodes:
        num_groups = num_nodes = 1
    groups = np.arange(len(weights)).reshape(num_groups, -1)
    ranks: list[list[int]] = []
    for node in pack(weights[groups].sum(axis=1), num_nodes):
        here = groups[node].ravel()
        which, copies = replicate(weights[here], num_copies // num_nodes)
        packs = pack((weights[here] / copies)[which], num_ranks // num_nodes)
        ranks += [here[which[items]].tolist() for items in packs]
    return ranks
