"""From an engine's degrees of parallelism to ranks, stages, expert routing and an execution plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from servetwin.core.errors import InputError
from servetwin.llm.parallel import Parallelism
from servetwin.llm.parts import MixtureOfExperts
from servetwin.scenario.factories import make
from servetwin.scenario.hardware import Replica
from servetwin.scenario.parallel_options import ExpertOptions
from servetwin.step.experts.base import ExpertPlacement, ExpertRouting, expert_placements, expert_routings

if TYPE_CHECKING:
    from servetwin.hardware.base import Device
    from servetwin.llm.base import ModelArchitecture


EXPERT_CONTEXT = {"num_experts", "top_k", "num_layers", "placement", "seed", "folder"}
"""What an expert routing's factory may ask for."""


@dataclass(frozen=True)
class Stage:
    """One pipeline stage of a replica: what a step model or a rank model is made for."""

    replica: Replica
    ranks: Parallelism
    other_model: ModelArchitecture | None = None
    other_device: Device | None = None
    """Another model or device than the replica's own, to try out what a stage would take."""

    @property
    def model(self) -> ModelArchitecture:
        """The model."""
        return self.other_model or self.replica.model

    @property
    def device(self) -> Device:
        """The accelerator of this stage."""
        return self.other_device or self.replica.stage_device(self.ranks.stage)

    @cached_property
    def experts(self) -> ExpertRouting | None:
        """The routing of the model's experts; None for a dense one."""
        return make_routing(self.replica, self.ranks)


def stages_of(replica: Replica) -> list[Stage]:
    """Return the stages of one replica, first to last."""
    ranks = replica.ranks
    return [Stage(replica, replace(ranks, stage=stage)) for stage in range(ranks.pipeline)]


def make_routing(replica: Replica, ranks: Parallelism) -> ExpertRouting | None:
    """Return a replica's expert routing, None for a model without experts.

    Raises
    ------
    InputError
        For an unknown routing or placement, or options that do not fit the model.
    """
    options, where = replica.pool.step.experts, f"{replica.where}.step.experts"
    mlp = next((layer.mlp for layer, _ in replica.model.layers if isinstance(layer.mlp, MixtureOfExperts)), None)
    if mlp is None:
        if options.model_dump() != ExpertOptions().model_dump():
            raise InputError(f"{replica.model.name} has no experts; leave this out", where=where)
        return None
    if not isinstance(options.routing, str):
        given: ExpertRouting = options.routing
        return given
    layers = sum(count for layer, count in replica.model.layers if isinstance(layer.mlp, MixtureOfExperts))
    context = {
        "num_experts": lambda: mlp.num_experts,
        "top_k": lambda: mlp.top_k,
        "num_layers": lambda: layers,
        "placement": lambda: make_placement(replica, ranks, mlp.num_experts),
        "seed": lambda: replica.seed,
        "folder": lambda: replica.folder,
    }
    factory = expert_routings.get(options.routing, where=f"{where}.routing")
    return make(factory, options.extra, context, where, type(options).model_fields)


def make_placement(replica: Replica, ranks: Parallelism, num_experts: int) -> ExpertPlacement:
    """Return which accelerator of a stage holds which experts."""
    engine, where = replica.engine, f"{replica.where}.engine"
    name = "eplb" if engine.enable_eplb else engine.expert_placement_strategy
    options: dict[str, Any] = engine.eplb_config.model_dump() if engine.enable_eplb else {}
    context = {"num_experts": lambda: num_experts, "num_ranks": lambda: ranks.expert}
    return make(expert_placements.get(name, where=where), options, context, where)
