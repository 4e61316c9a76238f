"""How many layers each pipeline stage should take so that unequal devices are equally busy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from servetwin.llm.base import ModelArchitecture
from servetwin.llm.parallel import Parallelism, balanced_partition
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

    Each kind of layer is timed on each stage's device, as the middle one of three stages of one layer; what the first
    and the last of these take beyond it is the embedding's and the host's, the head's and the sampler's.

    Raises
    ------
    InputError
        If there are more stages than layers.
    """
    kinds = [layer for layer, _ in architecture.layers]
    ends = (architecture.layer_sequence[0], architecture.layer_sequence[-1])
    costs, extra = [], []
    for stage in range(ranks.pipeline):
        times = {}
        for kind in kinds:
            three = replace(architecture, layer_sequence=(kind,) * 3)
            places = (replace(ranks, pipeline=3, stage=place, partition=None) for place in range(3))
            times[kind] = [_batch_ns(make(stage, three, place), place, shape) for place in places]
        costs.append([times[layer][1] for layer in architecture.layer_sequence])
        first, last = stage == 0, stage == ranks.pipeline - 1
        more = times[ends[0]][0] - times[ends[0]][1] if first else 0.0
        extra.append(more + (times[ends[1]][2] - times[ends[1]][1] if last else 0.0))
    return balanced_partition(costs, extra)


def _batch_ns(model: RankModel, place: Parallelism, shape: StepShape) -> float:
    tokens = shape.num_tokens
    own_ns = model.own_ns(shape, tokens, shape.num_sequences)
    return own_ns + model.shared_ns((tokens,) * place.data, shape.draw)
