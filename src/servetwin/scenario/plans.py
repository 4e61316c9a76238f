"""Makes a pool's execution plan from the engine's degrees of parallelism, or from its name and options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import servetwin.step.plans  # noqa: F401  (registers the built-in ones)
from servetwin.core.errors import InputError
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.formats import plain_format
from servetwin.llm.parallel import Parallelism
from servetwin.llm.parts import MixtureOfExperts
from servetwin.scenario.attention_ffn import build_ffn, ffn_replica
from servetwin.scenario.factories import make
from servetwin.scenario.hardware import Replica
from servetwin.scenario.parallel import Stage, stages_of
from servetwin.scenario.step_models import collectives_of, step_model_of
from servetwin.step.experts.trace import TraceRouting
from servetwin.step.partition import balanced_layers
from servetwin.step.plans.base import ExecutionPlan, RankModel, execution_plans
from servetwin.step.plans.rebalancing import Rebalancing

PLAN_CONTEXT = ("stages", "num_ranks", "decode_tokens", "prefill_tokens", "ffn")
"""What an execution plan's factory may ask for."""


def build_plan(replica: Replica) -> ExecutionPlan | None:
    """Return the execution plan of a pool's replicas; None for plain ones, whose step model is enough.

    Raises
    ------
    InputError
        For a plan or option that does not exist, or a step model that cannot be taken apart.
    """
    options, where = replica.pool.step.plan, f"{replica.where}.step.plan"
    kind = options.kind if options.kind != "auto" else _plan_of_degrees(replica)
    if replica.engine.enable_dbo and kind in ("pipeline", "lockstep", "lss_waves"):
        raise InputError(f"the plan {kind!r} overlaps nothing; leave it out, or enable_dbo", where=where)
    if kind is None:
        if options.extra:
            raise InputError(
                f"a replica of one rank and one stage has no plan to take {', '.join(options.extra)}", where=where
            )
        return None
    if not isinstance(kind, str):
        given: ExecutionPlan = kind
        return given
    engine = replica.engine
    context: dict[str, Callable[[], Any]] = {
        "stages": lambda: [_rank_model(stage) for stage in stages_of(replica)],
        "num_ranks": lambda: engine.data_parallel_size if _in_lockstep(replica) else 1,
        "decode_tokens": lambda: engine.dbo_decode_token_threshold,
        "prefill_tokens": lambda: engine.dbo_prefill_token_threshold,
        "ffn": lambda: build_ffn(replica),
    }
    factory = execution_plans.get(kind, where=f"{where}.kind")
    plan = make(factory, options.extra, context, where, type(options).model_fields)
    experts_at = ffn_replica(replica) if replica.part == "attention" else replica
    return _with_moving_experts(plan, experts_at) if engine.enable_eplb else plan


def _with_moving_experts(plan: ExecutionPlan, replica: Replica) -> ExecutionPlan:
    """Return the plan with the cost of rebalancing, where popularity changes and experts move."""
    stage, network = stages_of(replica)[0], collectives_of(replica)
    if not isinstance(stage.experts, TraceRouting) or network is None:
        return plan
    return Rebalancing(plan, stage.experts.received_at, _expert_bytes(replica.model, replica.dtype), network.send_ns)


def _expert_bytes(model: ModelArchitecture, dtype: str | None) -> int:
    """Return the bytes of one expert's matrices in one layer."""
    mlp = next(layer.mlp for layer, _ in model.layers if isinstance(layer.mlp, MixtureOfExperts))
    form = model.weight_format("experts") if dtype is None else plain_format(dtype)
    width, hidden = mlp.intermediate_size, model.hidden_size
    return form.matrix_bytes(2 * width, hidden) + form.matrix_bytes(hidden, width)


def _plan_of_degrees(replica: Replica) -> str | None:
    """Return the plan that an engine's degrees ask for."""
    engine = replica.engine
    if replica.part == "attention":
        return "attention_ffn"
    group = engine.data_parallel_size > 1 and replica.has_model and replica.model.is_moe
    if engine.enable_dbo:
        if not group:
            raise InputError(
                "enable_dbo overlaps the exchange of tokens between data-parallel ranks: it needs a model with "
                "experts and data_parallel_size above 1",
                where=f"{replica.where}.engine.enable_dbo",
            )
        return "two_batch_overlap"
    if group:
        return "lockstep"
    moves = engine.enable_eplb and isinstance(stages_of(replica)[0].experts, TraceRouting)
    return "pipeline" if engine.pipeline_parallel_size > 1 or moves else None


def _in_lockstep(replica: Replica) -> bool:
    """Return whether the data-parallel ranks of a replica step together."""
    if _plan_of_degrees(replica) in ("lockstep", "two_batch_overlap", "attention_ffn"):
        return True
    return replica.pool.step.plan.kind not in ("auto", "pipeline")


def with_partition(replica: Replica) -> Replica:
    """Return the replica with the layers of its stages, where they are to be balanced.

    Raises
    ------
    InputError
        If its step model cannot be taken apart.
    """
    if replica.engine.pipeline_partition != "balanced" or replica.engine.pipeline_parallel_size == 1:
        return replica

    def make_stage(number: int, architecture: ModelArchitecture, ranks: Parallelism) -> RankModel:
        return _rank_model(Stage(replica, ranks, architecture, replica.stage_device(number)))

    return replace(replica, partition=balanced_layers(make_stage, replica.model, replica.ranks))


def _rank_model(stage: Stage) -> RankModel:
    model = step_model_of(stage)
    if not hasattr(model, "own_ns"):
        raise InputError(
            f"the step model {stage.replica.pool.step.model!r} has no parts that pipelines and lockstep groups could "
            "put together; roofline and profile have",
            where=f"{stage.replica.where}.step.model",
        )
    return cast(RankModel, model)
