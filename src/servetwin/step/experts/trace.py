"""Replaying a recorded routing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from servetwin.core.random import stream
from servetwin.step.experts.base import ExpertPlacement, Floats, LayerLoads, RebalancingPlacement, expert_routings
from servetwin.step.experts.capacity import UNLIMITED, Capacity
from servetwin.step.experts.eplb import received_experts
from servetwin.step.experts.placements import Integers, Slots
from servetwin.step.experts.popular import check_routing, layers_of
from servetwin.step.experts.sampling import DrawnSets, count_loads
from servetwin.step.experts.trace_file import read_trace

STEP_BITS = 40
"""A draw's lower bits are the number of the step on its instance; the upper ones say which instance."""


class Rebalance(NamedTuple):
    """One rebalancing of a recorded routing.

    Attributes
    ----------
    step
        After how many steps it happens.
    received
        Experts' weights that each rank fetches, all layers together, shape ``(ranks,)``.
    """

    step: int
    received: Integers

    def moved_bytes(self, expert_bytes: float) -> float:
        """Return what travels, all ranks together, for one expert's bytes in one layer."""
        return float(self.received.sum()) * expert_bytes


@expert_routings.register("trace")
class TraceRouting:
    """Tokens take the experts that tokens of a recorded run took.

    Step n of an instance takes the tokens from recorded step n on (in turn, where there are fewer), as many as it has,
    and starts again at the end. With a placement that follows popularity, experts lie by what the recorded steps of the
    window before the last rebalancing took: it lags.

    Parameters
    ----------
    num_experts, top_k, num_layers, placement, seed
        As of every routing.
    path, folder
        The file, beside the folder of the scenario if it is not absolute; see `read_trace`.
    capacity
        Of each copy of an expert.
    """

    needs = frozenset({"draw"})

    def __init__(
        self,
        num_experts: int,
        top_k: int,
        num_layers: int,
        placement: ExpertPlacement,
        seed: int,
        path: str | Path,
        folder: str | Path = ".",
        capacity: Capacity = UNLIMITED,
    ) -> None:
        check_routing(num_experts, top_k, num_layers, placement)
        self._trace = read_trace(Path(folder, path), num_layers, num_experts, top_k)
        self._num_experts, self._placement, self._capacity, self._seed = num_experts, placement, capacity, seed
        self._layers = np.arange(num_layers)
        self._static = Slots(placement)
        self._epoch, self._balanced = 0, list[Slots]()

    def loads(self, tokens: int, first_layer: int, num_layers: int, draw: int) -> Sequence[LayerLoads]:
        """See `ExpertRouting`."""
        layers = layers_of(self._layers, first_layer, num_layers)
        step = draw % 2**STEP_BITS
        trace = self._trace
        start = trace.first_token[step % len(trace.first_token)]
        rows = (start + np.arange(tokens)) % len(trace.experts)
        taken = trace.experts[rows, first_layer : first_layer + num_layers]
        random = stream(self._seed, "experts", draw, first_layer)
        slots = self._slots_at(step)
        if slots is None:
            sets = _sets(taken, tokens, num_layers)
            loads = count_loads(sets, self._static, self._capacity, random)
        else:
            loads = [
                count_loads(_sets(taken[:, i : i + 1], tokens, 1), slots[layer], self._capacity, random)[0]
                for i, layer in enumerate(layers.tolist())
            ]
        return [LayerLoads(1, load) for load in loads]

    def rebalances(self, steps: int) -> list[Rebalance]:
        """Return the rebalancings in so many steps; none if the placement does not follow popularity."""
        if not isinstance(self._placement, RebalancingPlacement):
            return []
        before: list[ExpertPlacement] = [self._placement] * len(self._layers)
        found = []
        for number in range(1, self._placement.num_rebalances(steps) + 1):
            step = self._placement.rebalance_step(number)
            after = self._placements_at(self._placement, step)
            moves = [received_experts(old, new) for old, new in zip(before, after, strict=True)]
            found.append(Rebalance(step, np.sum(moves, axis=0)))
            before = after
        return found

    def received_at(self, step: int) -> int:
        """Return how many experts' weights the busiest rank fetches just before a step, all layers together."""
        placement = self._placement
        if not isinstance(placement, RebalancingPlacement) or step == 0:
            return 0
        epoch = placement.num_rebalances(step)
        if epoch == placement.num_rebalances(step - 1):
            return 0
        earlier: list[ExpertPlacement] = [placement] * len(self._layers)
        if epoch > 1:
            earlier = self._placements_at(placement, placement.rebalance_step(epoch - 1))
        later = self._placements_at(placement, placement.rebalance_step(epoch))
        moves = [received_experts(old, new) for old, new in zip(earlier, later, strict=True)]
        return int(np.sum(moves, axis=0).max())

    def _slots_at(self, step: int) -> list[Slots] | None:
        """Return each layer's slots after the last rebalancing before a step; None before the first."""
        placement = self._placement
        if not isinstance(placement, RebalancingPlacement):
            return None
        epoch = placement.num_rebalances(step)
        if epoch != self._epoch:
            placements = self._placements_at(placement, placement.rebalance_step(epoch)) if epoch else []
            self._epoch, self._balanced = epoch, [Slots(each) for each in placements]
        return self._balanced or None

    def _placements_at(self, placement: RebalancingPlacement, step: int) -> list[ExpertPlacement]:
        counts = self._counts(max(0, step - placement.window_size), step)
        return [placement.balanced(each) for each in counts]

    def _counts(self, begin: int, end: int) -> Floats:
        """Return how often recorded steps (in turn) took each expert, shape ``(layers, experts)``."""
        trace = self._trace
        steps = len(trace.first_token)
        begin = max(begin, end - steps)
        bounds = np.append(trace.first_token, len(trace.experts))
        parts = [trace.experts[bounds[n % steps] : bounds[n % steps + 1]] for n in range(begin, end)]
        taken = np.concatenate(parts)
        layers, size = taken.shape[1], self._num_experts
        keys = taken + (np.arange(layers) * size)[:, None]
        return np.bincount(keys.ravel(), minlength=layers * size).reshape(layers, size).astype(np.float64)


def _sets(taken: Integers, tokens: int, num_layers: int) -> DrawnSets:
    top_k = taken.shape[2]
    experts = taken.transpose(1, 0, 2).reshape(-1, top_k)
    weight = np.ones(len(experts), dtype=np.int64)
    return DrawnSets(experts, weight, np.repeat(np.arange(num_layers), tokens), tokens, num_layers)
