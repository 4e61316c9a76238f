"""Algorithms of collectives: how many steps each takes among N ranks, and how many bytes each rank sends in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"]
OPERATIONS: tuple[Operation, ...] = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")


class Moves(NamedTuple):
    """One operation among N ranks: its steps, and what the busiest rank sends or receives per byte of the tensor."""

    steps: float
    wire: float


Kernel = Literal["protocols", "sends", "switch", "one_kernel"]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """How an algorithm carries out the operations that it knows.

    Attributes
    ----------
    name, summary
        As users name it, and what it does.
    kernel
        What runs it: NCCL's protocols, NCCL's sends, the switch, or an engine's own kernel.
    moves
        By operation: the `Moves` among N ranks.
    """

    name: str
    summary: str
    kernel: Kernel
    moves: Mapping[Operation, Callable[[int], Moves]]


def _rounds(ranks: int) -> int:
    return (ranks - 1).bit_length()


def _share(ranks: int) -> float:
    return (ranks - 1) / ranks


def _recursive_doubling(ranks: int) -> Moves:
    """Each of log2 N rounds exchanges the tensor; ranks beyond a power of two hand theirs in first and get it last."""
    extra = 0 if ranks & (ranks - 1) == 0 else 2
    rounds = ranks.bit_length() - 1 + extra
    return Moves(rounds, rounds)


def _halving_doubling(ranks: int) -> Moves:
    extra = 0 if ranks & (ranks - 1) == 0 else 2
    core = 1 << (ranks.bit_length() - 1)
    return Moves(2 * (core.bit_length() - 1) + extra, 2 * _share(core) + extra)


ALGORITHMS: Mapping[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm(
            "ring",
            "every rank passes parts on to the next",
            "protocols",
            {
                "all_reduce": lambda n: Moves(2 * (n - 1), 2 * _share(n)),
                "all_gather": lambda n: Moves(n - 1, _share(n)),
                "reduce_scatter": lambda n: Moves(n - 1, _share(n)),
                "broadcast": lambda n: Moves(n - 1, 1.0),
            },
        ),
        Algorithm(
            "tree",
            "two binary trees, each for half of the tensor, pipelined (Sanders, Speck and Traff, 2009)",
            "protocols",
            {
                "all_reduce": lambda n: Moves(2 * _rounds(n), 2.0 if n > 2 else 1.0),
                "broadcast": lambda n: Moves(_rounds(n), 1.0),
            },
        ),
        Algorithm(
            "recursive_doubling",
            "exchanges of all there is with ranks 1, 2, 4, ... away, log2 N in all",
            "protocols",
            {
                "all_reduce": _recursive_doubling,
                "all_gather": lambda n: Moves(_rounds(n), _share(n)),
                "reduce_scatter": lambda n: Moves(_rounds(n), _share(n)),
            },
        ),
        Algorithm(
            "halving_doubling",
            "a reduce-scatter by halving and an all-gather by doubling (Rabenseifner, 2004)",
            "protocols",
            {
                "all_reduce": _halving_doubling,
                "all_gather": lambda n: Moves(_rounds(n), _share(n)),
                "reduce_scatter": lambda n: Moves(_rounds(n), _share(n)),
            },
        ),
        Algorithm(
            "one_shot",
            "every rank reads all others' tensors at once and adds them up",
            "one_kernel",
            {"all_reduce": lambda n: Moves(1, n - 1)},
        ),
        Algorithm(
            "two_shot",
            "every rank adds up its part of all others' tensors, then reads their sums",
            "one_kernel",
            {"all_reduce": lambda n: Moves(2, 2 * _share(n))},
        ),
        Algorithm(
            "in_switch",
            "the switch adds up on the way in and multicasts on the way out",
            "switch",
            {
                "all_reduce": lambda n: Moves(2, 1 + 1 / n),
                "all_gather": lambda n: Moves(1, 1.0),
                "reduce_scatter": lambda n: Moves(1, 1.0),
                "broadcast": lambda n: Moves(1, 1.0),
            },
        ),
        Algorithm(
            "pairwise",
            "every rank sends to every other at once",
            "sends",
            {"all_to_all": lambda n: Moves(1, _share(n))},
        ),
    )
}
"""Algorithms by name."""

NCCL_ALGORITHMS = ("ring", "tree", "in_switch", "pairwise")
ENGINE_ALGORITHMS = (*NCCL_ALGORITHMS, "one_shot", "two_shot")


def lower_bound(operation: Operation, ranks: int, in_switch: bool) -> float:
    """Return the least that a rank sends or receives per byte of the tensor, whatever the algorithm."""
    if operation == "all_reduce" and not in_switch:
        return 2 * _share(ranks)
    return 1.0 if operation in ("all_reduce", "broadcast") else _share(ranks)


def mesh_moves(operation: Operation, sides: tuple[tuple[int, bool], ...]) -> Moves:
    """Return the moves on a ring or torus, where neighbours only are linked; all dimensions work at once.

    ``wire`` counts against the bandwidth of all covered dimensions. A ring of n passes a part on over n - 1 steps.
    An all-to-all is bound by its longest dimension: on a closed ring of n a part travels n / 4 hops on average, so
    that each link carries n / 8 of a rank's tensor; on an open one twice that, and its bandwidth is half.
    """
    ranks = math.prod(along for along, _ in sides)
    steps = sum(along - 1 for along, _ in sides)
    if operation == "all_to_all":
        # ``2 * along / 8``: a dimension has two links per rank, and ``wire`` counts against both
        links = sum(1.0 if closed else 0.5 for _, closed in sides)
        wire = max(along / 4 / (1.0 if closed else 0.5) for along, closed in sides) * links
        return Moves(sum(along / 2 for along, _ in sides), max(wire, _share(ranks)))
    if operation == "broadcast":
        return Moves(steps, 1.0)
    rounds = 2 if operation == "all_reduce" else 1
    return Moves(rounds * steps, rounds * _share(ranks))
