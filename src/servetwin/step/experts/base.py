"""The contract of expert routing: which experts the tokens of a step take, and what that means for each rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from servetwin.core.registry import Registry

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ExpertLoad:
    """What the routed experts of one layer compute in one step: columns of shape ``(expert-parallel ranks,)``.

    Expected values where the routing is one of expectation, else whole numbers.

    Attributes
    ----------
    tokens
        Tokens that are sent to a rank: those that take at least one of its experts, each once.
    pairs
        (token, expert) pairs that it computes, padding included.
    experts
        Distinct experts that are activated on it: whose weights are read.
    dropped_pairs
        Pairs of all ranks that no expert computes, because those of a rank's copy are over its capacity.
    padding_pairs
        Rows of all ranks that are computed and mean nothing. Always: sum of ``pairs`` = tokens x top_k -
        ``dropped_pairs`` + ``padding_pairs``.
    """

    tokens: Floats
    pairs: Floats
    experts: Floats
    dropped_pairs: float = 0.0
    padding_pairs: float = 0.0


class LayerLoads(NamedTuple):
    """Layers that have the same load."""

    num_layers: int
    load: ExpertLoad


class ExpertRouting(Protocol):
    """Which experts the tokens of a step take, layer by layer."""

    needs: frozenset[str]
    """``"draw"`` if the answer is drawn anew in each step; nothing if it depends on the number of tokens alone."""

    def loads(self, tokens: int, first_layer: int, num_layers: int, draw: int) -> Sequence[LayerLoads]:
        """Return the loads of consecutive layers with experts, those that are alike together.

        Parameters
        ----------
        tokens
            Tokens of all attention ranks together that are routed.
        first_layer, num_layers
            Which of the model's layers with experts, counted from 0 over these alone.
        draw
            The step's number, to draw by.
        """
        ...


expert_routings: Registry[ExpertRouting] = Registry("expert routing")
"""Factories take ``(num_experts, top_k, num_layers, placement: ExpertPlacement, seed)`` by keyword, as far as their
signature has them, and their own options."""


class ExpertPlacement(Protocol):
    """Which rank holds which experts.

    An expert may have several copies (redundant experts); its pairs are spread over them evenly.
    """

    num_ranks: int
    num_experts: int

    @property
    def share(self) -> Floats:
        """Part of each expert's pairs that each rank computes, shape ``(ranks, experts)``; each column sums to 1."""
        ...

    @property
    def slots(self) -> NDArray[np.int64]:
        """Expert weights that each rank holds, copies counted, shape ``(ranks,)``."""
        ...


@runtime_checkable
class RebalancingPlacement(ExpertPlacement, Protocol):
    """A placement that follows the popularity of experts, layer by layer.

    A routing that knows popularities places each layer's experts by `balanced`; one whose popularities change does so
    again after `rebalance_steps`. Its own ``share`` and ``slots`` are those before the first rebalancing.
    """

    window_size: int
    """Steps whose loads decide a placement."""

    def balanced(self, popularity: Floats, before: ExpertPlacement | None = None) -> ExpertPlacement:
        """Return a placement for one layer that evens out a popularity.

        Parameters
        ----------
        popularity
            Load of each expert, in any unit, shape ``(experts,)``.
        before
            Where experts lie now.
        """
        ...

    def num_rebalances(self, steps: int) -> int:
        """Return how often experts have been moved when so many steps have ended."""
        ...

    def rebalance_step(self, number: int) -> int:
        """Return after how many steps the rebalancing of that number (from 1) happens."""
        ...


expert_placements: Registry[ExpertPlacement] = Registry("expert placement")
"""Factories take ``(num_experts, num_ranks)`` by keyword and their own options."""
