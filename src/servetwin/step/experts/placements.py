"""Placements that do not depend on popularity: neighbours together, in turn, and LLMServingSim's rule."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError
from servetwin.step.experts.base import ExpertPlacement, Floats, expert_placements

Integers = NDArray[np.int64]


class TablePlacement:
    """Experts on ranks as a list says.

    Parameters
    ----------
    held
        The experts that each rank holds; one may stand on several ranks, or twice on one.
    num_experts
        Experts of a layer.

    Raises
    ------
    InputError
        If an expert is not there, or lies nowhere.
    """

    def __init__(self, held: list[list[int]], num_experts: int) -> None:
        self.num_ranks, self.num_experts = len(held), num_experts
        self.copies = np.zeros((len(held), num_experts), dtype=np.int64)
        for rank, experts in enumerate(held):
            if wrong := [expert for expert in experts if not 0 <= expert < num_experts]:
                raise InputError(f"rank {rank} holds expert {wrong[0]}; there are experts 0 to {num_experts - 1}")
            np.add.at(self.copies[rank], experts, 1)
        missing = np.flatnonzero(self.copies.sum(axis=0) == 0)
        if len(missing):
            raise InputError(f"expert {missing[0]} lies on no rank ({len(missing)} of {num_experts} do not)")

    @cached_property
    def share(self) -> Floats:
        """See `ExpertPlacement`."""
        share: Floats = self.copies / self.copies.sum(axis=0)
        return share

    @cached_property
    def slots(self) -> Integers:
        """See `ExpertPlacement`."""
        slots: Integers = self.copies.sum(axis=1)
        return slots


def check_degrees(num_experts: int, num_ranks: int) -> None:
    """Raise for more ranks than experts: a rank without any would only wait."""
    if not 1 <= num_ranks <= num_experts:
        raise InputError(
            f"{num_experts} experts on {num_ranks} expert-parallel ranks; allowed are 1 to {num_experts} ranks"
        )


@expert_placements.register("linear")
def linear(num_experts: int, num_ranks: int) -> TablePlacement:
    """Neighbours together, one more on each of the first ranks where they do not divide (vLLM's default, 0.19)."""
    check_degrees(num_experts, num_ranks)
    return TablePlacement([part.tolist() for part in np.array_split(np.arange(num_experts), num_ranks)], num_experts)


@expert_placements.register("round_robin")
def round_robin(num_experts: int, num_ranks: int) -> TablePlacement:
    """Expert e on rank e mod ranks (vLLM's ``expert_placement_strategy: round_robin``).

    vLLM 0.19 takes ``linear`` instead for models whose experts are not in several groups, and beside redundant experts.
    """
    check_degrees(num_experts, num_ranks)
    return TablePlacement([list(range(rank, num_experts, num_ranks)) for rank in range(num_ranks)], num_experts)


@expert_placements.register("lss")
def lss(num_experts: int, num_ranks: int) -> TablePlacement:
    """LLMServingSim's: expert e on rank min(floor(e * ranks / experts), ranks - 1)."""
    check_degrees(num_experts, num_ranks)
    ranks = np.minimum(np.arange(num_experts) * num_ranks // num_experts, num_ranks - 1)
    return TablePlacement([np.flatnonzero(ranks == rank).tolist() for rank in range(num_ranks)], num_experts)


class Slots:
    """A placement seen from its copies: one slot for each rank and expert that it holds, sorted by expert.

    Attributes
    ----------
    rank, expert, share
        Of each slot: where it is, what it holds, and which part of its expert's pairs it computes.
    """

    def __init__(self, placement: ExpertPlacement) -> None:
        share = np.asarray(placement.share, dtype=np.float64)
        expert, rank = np.nonzero(share.T)
        self.rank, self.expert, self.share = rank, expert, share[rank, expert]
        self.num_ranks = placement.num_ranks
        number = np.bincount(expert, minlength=share.shape[1])
        self._first = np.concatenate(([0], np.cumsum(number)[:-1]))
        self.most_copies = int(number.max())
        self._limits = np.ones((share.shape[1], self.most_copies))
        for copy in range(self.most_copies):
            has = number > copy
            before = self._limits[has, copy - 1] if copy else 0.0
            self._limits[has, copy] = before + self.share[self._first[has] + copy]

    def of(self, experts: Integers, random: np.random.Generator) -> Integers:
        """Return the slot that each pair goes to; copies are drawn by their shares."""
        slots = self._first[experts]
        if self.most_copies > 1:
            drawn = random.random(experts.shape)[..., None]
            slots = slots + (drawn >= self._limits[experts][..., :-1]).sum(axis=-1)
        return slots
