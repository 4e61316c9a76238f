"""How ranks divide a model: tensor, pipeline and expert parallelism, as vLLM does it."""

from __future__ import annotations

from dataclasses import dataclass

from servetwin.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Parallelism:
    """One rank's place among those that share a model.

    Attributes
    ----------
    tensor
        Ranks that divide each layer.
    pipeline, stage
        Stages that divide the layers, and this rank's stage, from 0.
    expert
        Ranks that divide the routed experts, each expert whole on one; 1: every rank holds its tensor-parallel part of
        each expert.
    """

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    stage: int = 0

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline", "expert"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} parallelism must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.stage < self.pipeline:
            raise InputError(f"stage must be from 0 to {self.pipeline - 1}, got {self.stage}")

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.stage == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank holds the LM head."""
        return self.stage == self.pipeline - 1

    @property
    def expert_tensor(self) -> int:
        """Ranks that divide one routed expert."""
        return self.tensor if self.expert == 1 else 1


ONE_RANK = Parallelism()


def stage_layers(num_layers: int, pipeline: int, stage: int) -> range:
    """Return the indices of a stage's layers.

    As vLLM's ``get_pp_indices``: equal parts; what remains goes one each to the stages before the last, from the back.

    Raises
    ------
    InputError
        If there are more stages than layers.
    """
    if pipeline > num_layers:
        raise InputError(f"pipeline_parallel_size {pipeline} is more than the model's {num_layers} layers")
    sizes = [num_layers // pipeline] * pipeline
    for back in range(2, num_layers % pipeline + 2):
        sizes[-back] += 1
    start = sum(sizes[:stage])
    return range(start, start + sizes[stage])
