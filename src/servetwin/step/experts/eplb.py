"""Redundant experts and rebalancing, as vLLM's expert-parallelism load balancer does it."""

from __future__ import annotations

import numpy as np

from servetwin.core.errors import InputError
from servetwin.step.experts.balancing import balanced_ranks
from servetwin.step.experts.base import ExpertPlacement, Floats, expert_placements
from servetwin.step.experts.placements import Integers, TablePlacement, check_degrees


@expert_placements.register("eplb")
class Eplb:
    """Experts lie by their popularity, with copies of the popular ones; vLLM 0.19's ``eplb_config``.

    Before the first rebalancing copies of experts 0, 1, ... follow the last expert, and all lie in a row, as in vLLM.
    A routing of fixed popularity has balanced experts throughout; a recorded one is rebalanced when vLLM would.

    Parameters
    ----------
    num_experts, num_ranks
        As of every placement.
    num_redundant_experts
        Copies beyond one of each expert. With them, copies are a multiple of the ranks.
    window_size
        Steps whose loads decide a placement.
    step_interval
        Steps from one rebalancing to the next; the first comes after a quarter of them.
    num_groups, num_nodes
        Groups of neighbouring experts, and nodes over which they are spread whole; 1 and 1: nodes are not regarded.

    Raises
    ------
    InputError
        For copies that the ranks do not divide, or nodes that do not divide ranks.
    """

    def __init__(
        self,
        num_experts: int,
        num_ranks: int,
        num_redundant_experts: int = 0,
        window_size: int = 1000,
        step_interval: int = 3000,
        num_groups: int = 1,
        num_nodes: int = 1,
    ) -> None:
        check_degrees(num_experts, num_ranks)
        self.num_experts, self.num_ranks = num_experts, num_ranks
        self.num_copies = num_experts + num_redundant_experts
        self._check(num_redundant_experts, num_groups, num_nodes)
        if window_size < 1 or step_interval < 1:
            raise InputError(f"window_size {window_size} and step_interval {step_interval} must be at least 1")
        self.window_size, self.step_interval = window_size, step_interval
        self._groups, self._nodes = num_groups, num_nodes
        rows = (np.arange(self.num_copies) % num_experts).reshape(num_ranks, -1)
        self._start = TablePlacement(rows.tolist(), num_experts)

    def _check(self, redundant: int, groups: int, nodes: int) -> None:
        experts, ranks = self.num_experts, self.num_ranks
        if redundant < 0:
            raise InputError(f"num_redundant_experts is {redundant}; it must be 0 or more")
        if self.num_copies % ranks:
            fitting = -experts % ranks
            raise InputError(
                f"{experts} experts and {redundant} redundant ones are {self.num_copies} copies, which {ranks} ranks "
                f"do not divide; num_redundant_experts may be {fitting}, {fitting + ranks}, {fitting + 2 * ranks}, ..."
            )
        if groups < 1 or nodes < 1 or experts % groups or ranks % nodes or self.num_copies % nodes:
            raise InputError(
                f"num_groups {groups} must divide {experts} experts, and num_nodes {nodes} must divide {ranks} ranks"
            )

    @property
    def share(self) -> Floats:
        """See `ExpertPlacement`."""
        return self._start.share

    @property
    def slots(self) -> Integers:
        """See `ExpertPlacement`."""
        return self._start.slots

    def balanced(self, popularity: Floats, before: ExpertPlacement | None = None) -> ExpertPlacement:
        """See `RebalancingPlacement`; the rule does not regard where experts lie now (vLLM keeps only their slots)."""
        if len(popularity) != self.num_experts:
            raise InputError(f"{len(popularity)} popularities for {self.num_experts} experts")
        held = balanced_ranks(popularity, self.num_copies, self.num_ranks, self._groups, self._nodes)
        return TablePlacement(held, self.num_experts)

    def num_rebalances(self, steps: int) -> int:
        """See `RebalancingPlacement`."""
        first = self.rebalance_step(1)
        return 0 if steps < first else 1 + (steps - first) // self.step_interval

    def rebalance_step(self, number: int) -> int:
        """See `RebalancingPlacement`. vLLM starts its counter at three quarters of the interval."""
        return max(1, self.step_interval // 4) + (number - 1) * self.step_interval


def received_experts(before: ExpertPlacement, after: ExpertPlacement) -> Integers:
    """Return how many experts' weights each rank must fetch for another placement, shape ``(ranks,)``.

    What a rank holds already is copied there, or stays; only experts that are new to it travel, each once.
    """
    old, new = np.asarray(before.share) > 0, np.asarray(after.share) > 0
    if old.shape != new.shape:
        raise InputError(f"placements of {old.shape} and {new.shape} (ranks, experts) cannot follow each other")
    received: Integers = (new & ~old).sum(axis=1)
    return received
