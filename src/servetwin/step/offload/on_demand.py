"""Experts that come when a step activates them: how many are missing from the accelerator's cache, and their time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from servetwin.llm.parallel import stage_layers
from servetwin.llm.parts import MixtureOfExperts
from servetwin.memory.placement import PlacedWeights
from servetwin.memory.weights import local_experts
from servetwin.step.experts.base import ExpertRouting
from servetwin.step.offload.expert_cache import Floats, activation_chances, hit_share


class ExpertsOnDemand:
    """The loads of a stage's experts.

    After a layer's router has chosen, the missing experts are loaded, then all are computed in one kernel: nothing
    hides the loads. The rank with the most activated experts counts.

    Parameters
    ----------
    placed
        The stage's weights, with an `ExpertCache`.
    routing
        Which experts tokens take; None: evenly spread.
    """

    def __init__(self, placed: PlacedWeights, routing: ExpertRouting | None) -> None:
        cache = placed.placement.experts
        assert cache is not None
        self._cache, self._placed, self._routing = cache, placed, routing
        self._device = placed.devices[cache.device]
        self._local = local_experts(placed.architecture, placed.ranks)
        self._first, self._layers = _expert_layers(placed)
        self._popularity = self._popularities()
        self._hits: dict[int, float] = {}
        self._known: dict[int, float] = {}

    @property
    def draws(self) -> bool:
        """Whether the number of activated experts is drawn anew in each step."""
        return self._routing is not None and "draw" in self._routing.needs

    def load_ns(self, tokens: int, draw: int = 0) -> float:
        """Return the time of a step's loads, of all layers of the stage.

        Parameters
        ----------
        tokens
            Of all data-parallel ranks together.
        """
        if self.draws:
            return self._load_ns(tokens, draw)
        found = self._known.get(tokens)
        if found is None:
            found = self._known[tokens] = self._load_ns(tokens, draw)
        return found

    def _load_ns(self, tokens: int, draw: int) -> float:
        if not tokens:
            return 0.0
        missing = 1.0 - self.hit_share(tokens)
        total = 0.0
        for layers, activated in self._activated(tokens, draw):
            loaded = activated * missing
            if loaded > 1e-9:
                asks = min(1.0, loaded)  # the latency of one ask per layer; less where mostly nothing is missing
                rate = self._device.rate_bytes_per_s
                total += layers * (asks * self._device.latency_ns + loaded * self._placed.expert_bytes / rate * 1e9)
        return total

    def hit_share(self, tokens: int) -> float:
        """Return the expected share of activated experts that are in the cache, the mean over the layers' kinds."""
        found = self._hits.get(tokens)
        if found is None:
            cache = self._cache
            chances = activation_chances(self._popularity, tokens)
            shares = [hit_share(row, cache.cached, cache.eviction) for row in chances]
            found = self._hits[tokens] = float(np.mean(shares))
        return found

    def loaded_bytes(self, tokens: int, draw: int = 0) -> float:
        """Return the bytes that one rank loads in a step."""
        missing = 1.0 - self.hit_share(tokens)
        return sum(layers * number for layers, number in self._activated(tokens, draw)) * (
            missing * self._placed.expert_bytes
        )

    def _activated(self, tokens: int, draw: int) -> Sequence[tuple[int, float]]:
        """Return layers that are alike, and the experts that are activated on the busiest rank of each."""
        if self._routing is None:
            return [(self._layers, float(activation_chances(self._popularity, tokens).sum()))]
        loads = self._routing.loads(tokens, self._first, self._layers, draw)
        return [(layers, float(np.max(load.experts))) for layers, load in loads]

    def _popularities(self) -> Floats:
        """Return the popularity of one rank's experts, one row per kind of layer; a rank's are every n-th."""
        given = getattr(self._routing, "inclusion", None)
        if given is not None:
            popular: Floats = np.asarray(given)
            if popular.shape[1] > self._local:
                order = np.sort(popular, axis=1)[:, ::-1]
                step = popular.shape[1] // self._local
                return np.ascontiguousarray(order[:, ::step][:, : self._local])
            return popular
        mlp = _mixture(self._placed)
        return np.full((1, self._local), mlp.top_k / mlp.num_experts)


def _mixture(placed: PlacedWeights) -> MixtureOfExperts:
    mlps = (layer.mlp for layer, _ in placed.architecture.layers)
    return next(part for part in mlps if isinstance(part, MixtureOfExperts))


def _expert_layers(placed: PlacedWeights) -> tuple[int, int]:
    """Return how many layers with experts stand before the stage, and how many it has."""
    architecture, ranks = placed.architecture, placed.ranks
    stage = stage_layers(architecture.num_hidden_layers, ranks.pipeline, ranks.stage, ranks.partition)
    routed = [isinstance(layer.mlp, MixtureOfExperts) for layer in architecture.layer_sequence]
    return sum(routed[: stage.start]), sum(routed[stage.start : stage.stop])
