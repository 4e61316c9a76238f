"""Whether policies and step models, which may be anybody's, have what their contracts ask for."""

from __future__ import annotations

from collections.abc import Sequence

from servetwin.cluster.base import Disaggregation, InstanceSpec, Router
from servetwin.cluster.tiers import check_tiers
from servetwin.core.errors import InputError, InvariantError, unknown_name
from servetwin.engine.base import SchedulerView

READABLE = ("block_keys", "kv_used_blocks", "outstanding", "reusable_tokens", "running", "waiting")


def check_plugins(
    instances: Sequence[InstanceSpec], router: Router, disaggregation: Disaggregation | None = None
) -> None:
    """Raise if a router, scheduler, ordering or step model lacks a part of its contract.

    Raises
    ------
    InputError
        Naming the class and what it lacks; or if roles have nobody on the other side.
    """
    _check_router(router)
    _check_roles(instances, disaggregation)
    for spec in instances:
        check_tiers(spec)
        _check("scheduler", spec.scheduler, ("plan",))
        _check("ordering", spec.ordering, ("key", "preempts_by_key"))
        if spec.plan is None:
            _check("step model", spec.step_model, ("needs", "notices", "duration_ns", "decode_run_ns"))
        else:
            _check_grouped(spec)


def _check_router(router: Router) -> None:
    _check("router", router, ("reads", "choose"))
    for name in sorted(router.reads):
        if name not in READABLE:
            raise unknown_name("column that a router reads", name, READABLE, where=f"{type(router).__name__}.reads")


def _check_roles(instances: Sequence[InstanceSpec], disaggregation: Disaggregation | None) -> None:
    """Check that whoever computes prompts finds somebody that computes outputs, and the other way round."""
    if disaggregation is None:
        apart = [spec for spec in instances if spec.role != "both"]
        if apart:
            message = f"role {apart[0].role!r} needs to know how requests get from prefill to decode (disaggregation)"
            raise InputError(message, where=apart[0].name)
        return
    _check_router(disaggregation.decode_router)
    for spec in instances:
        if spec.settings.async_scheduling:
            raise InputError("async_scheduling is not modelled where prefill and decode are apart", where=spec.name)
        if spec.role == "both":
            continue
        other = "decode" if spec.role == "prefill" else "prefill"
        partners = [
            x
            for x in instances
            if x.role in (other, "both") and (None in (x.model, spec.model) or x.model == spec.model)
        ]
        if not partners:
            model = f" of the model {spec.model!r}" if spec.model else ""
            raise InputError(f"role {spec.role!r} has no {other} instance{model} on the other side", where=spec.name)


def _check_grouped(spec: InstanceSpec) -> None:
    """Check an instance with an execution plan, which not every scheduler can fill."""
    _check("execution plan", spec.plan, ("num_ranks", "num_stages", "needs", "notices", "stage_times_ns"))
    answers = getattr(spec.scheduler, "reads", None) == frozenset()
    view = SchedulerView(0, 0, 0, False, spec.settings.enable_chunked_prefill)
    if not answers or spec.scheduler.plan(view).decode != "first":
        raise InputError(
            f"scheduler {type(spec.scheduler).__name__} cannot fill pipelines or lockstep groups: it must "
            "always give the same answer, and let running requests come first, as vLLM V1's does",
            where=f"cluster.{spec.pool}.engine.kind",
        )
    if spec.settings.async_scheduling:
        message = "async_scheduling is not modelled for pipelines and lockstep groups; leave it out"
        raise InputError(message, where=f"cluster.{spec.pool}.engine.async_scheduling")


def _check(kind: str, plugin: object, parts: tuple[str, ...]) -> None:
    missing = [part for part in parts if not hasattr(plugin, part)]
    if missing:
        raise InputError(
            f"a {kind} must have {', '.join(parts)}; this one has no {', '.join(missing)} "
            "(the contracts stand in servetwin.protocols)",
            where=f"{type(plugin).__module__}.{type(plugin).__name__}",
        )


def wrong_choice(router: Router, choice: object, candidates: Sequence[int]) -> InvariantError:
    """Return the error for a router that chose an instance that it was not offered."""
    offered = ", ".join(map(str, candidates[:20]))
    return InvariantError(
        f"router {type(router).__name__} chose {choice!r}; it must return one of the instance numbers {offered}"
    )
