"""The contract of expert routing: which experts the tokens of a step take, and what that means for each rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

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
        (token, expert) pairs that it computes.
    experts
        Distinct experts that are activated on it: whose weights are read.
    """

    tokens: Floats
    pairs: Floats
    experts: Floats


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


expert_placements: Registry[ExpertPlacement] = Registry("expert placement")
"""Factories take ``(num_experts, num_ranks)`` by keyword and their own options."""
