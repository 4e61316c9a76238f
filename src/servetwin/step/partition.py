"""How many layers each pipeline stage should take so that unequal devices are equally busy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from servetwin.llm.base import ModelArchitecture
from servetwin.llm.parallel import Parallelism, balanced_partition
from servetwin.llm.parts import Layer, MixtureOfExperts
from servetwin.step.base import StepShape
from servetwin.step.plans.base import RankModel

TYPICAL = StepShape(64, 64 * 1000)
"""What is balanced where nothing else is said: 64 decodes of a thousand tokens each."""

StageModel = Callable[[int, ModelArchitecture, Parallelism], RankModel]
"""Makes the rank model of an architecture at a place, on the devices of the stage whose number comes first."""


def balanced_layers(
    make: StageModel, architecture: ModelArchitecture, ranks: Parallelism, shape: StepShape = TYPICAL
) -> tuple[int, ...]:
    """Return the layers of each stage with which the slowest stage takes least time for a batch of ``shape``.

    Each kind of layer is timed on each stage's device: what a first stage takes longer with two of them than with one.
    What the first and the last stage take beyond their layer is the embedding's and the host's, the head's and the
    sampler's. The groups of accelerators are those of the whole pipeline.

    Raises
    ------
    InputError
        If there are more stages than layers.
    """
    layers = architecture.layer_sequence
    costs, extra = [], []
    for stage in range(ranks.pipeline):
        timed = _Timed(partial(make, stage), architecture, ranks, shape)
        times = {kind: timed.first_ns(kind, 2) - timed.first_ns(kind, 1) for kind, _ in architecture.layers}
        costs.append([times[layer] for layer in layers])
        more = timed.first_ns(layers[0], 1) - times[layers[0]] if stage == 0 else 0.0
        if stage == ranks.pipeline - 1:
            more += timed.last_ns(layers[-1]) - times[layers[-1]]
        extra.append(more)
    return balanced_partition(costs, extra)


@dataclass(frozen=True)
class _Timed:
    """Times stages of few layers on one stage's devices; the other stages have one layer each, with experts if any."""

    make: Callable[[ModelArchitecture, Parallelism], RankModel]
    architecture: ModelArchitecture
    ranks: Parallelism
    shape: StepShape

    def first_ns(self, kind: Layer, number: int) -> float:
        """Return the time of a first stage of ``number`` layers."""
        others = self._others
        return self._stage_ns((kind,) * number + others, 0, (number,) + (1,) * len(others))

    def last_ns(self, kind: Layer) -> float:
        """Return the time of a last stage of one layer."""
        others = self._others
        return self._stage_ns((*others, kind), len(others), (1,) * (len(others) + 1))

    @property
    def _others(self) -> tuple[Layer, ...]:
        layers = self.architecture.layer_sequence
        routed = next((layer for layer in layers if isinstance(layer.mlp, MixtureOfExperts)), layers[0])
        return (routed,) * (self.ranks.pipeline - 1)

    def _stage_ns(self, layers: tuple[Layer, ...], stage: int, partition: tuple[int, ...]) -> float:
        architecture = replace(self.architecture, layer_sequence=layers)
        model = self.make(architecture, replace(self.ranks, stage=stage, partition=partition))
        tokens = self.shape.num_tokens
        own_ns = model.own_ns(self.shape, tokens, self.shape.num_sequences)
        return own_ns + model.shared_ns((tokens,) * self.ranks.data, self.shape.draw)
