"""Round robin: token t of a step takes experts t to t + k - 1, counted round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from servetwin.step.experts.base import ExpertLoad, ExpertPlacement, Floats, LayerLoads, expert_routings
from servetwin.step.experts.popular import check_routing, layers_of, placed


@expert_routings.register("round_robin")
class RoundRobin:
    """Token t takes experts t to t + top_k - 1 mod experts, t counted from 0 in each step; all layers alike.

    Exact for any number of tokens: whole rounds of ``num_experts`` tokens, and the rest. Where an expert has
    copies, its tokens are spread over them, and the loads are the expected ones.
    """

    needs = frozenset[str]()

    def __init__(self, num_experts: int, top_k: int, num_layers: int, placement: ExpertPlacement) -> None:
        check_routing(num_experts, top_k, num_layers, placement)
        self._layers = np.zeros(num_layers, dtype=np.int64)
        self._share = np.asarray(placed(placement, np.ones(num_experts)).share, dtype=np.float64)
        self._num_experts, self._top_k = num_experts, top_k
        takes = (np.arange(num_experts)[:, None] + np.arange(top_k)) % num_experts
        missed = (1.0 - self._share[:, takes]).prod(axis=2).T
        self._visits = _running_sums(1.0 - missed)
        taken = np.zeros((num_experts, num_experts))
        np.put_along_axis(taken, takes, 1.0, axis=1)
        self._counts = _running_sums(taken)
        self._known: dict[int, ExpertLoad] = {}

    def loads(self, tokens: int, first_layer: int, num_layers: int, draw: int) -> Sequence[LayerLoads]:
        """See `ExpertRouting`."""
        layers_of(self._layers, first_layer, num_layers)
        load = self._known.get(tokens)
        if load is None:
            load = self._known[tokens] = self._load(tokens)
        return (LayerLoads(num_layers, load),)

    def _load(self, tokens: int) -> ExpertLoad:
        rounds, rest = divmod(tokens, self._num_experts)
        counts = rounds * self._counts[-1] + self._counts[rest]
        visits = rounds * self._visits[-1] + self._visits[rest]
        activated = 1.0 - (1.0 - self._share) ** counts
        return ExpertLoad(visits, self._share @ counts, activated.sum(axis=1))


def _running_sums(rows: Floats) -> Floats:
    """Return the sums of the first 0, 1, ... rows."""
    return np.concatenate((np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)))
