"""What steps by itself: a plain instance, or a group of instances with an execution plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import cast

from servetwin.cluster.base import Disaggregation, InstanceSpec
from servetwin.core.errors import InputError
from servetwin.engine.base import NOT_YET, RequestLog
from servetwin.engine.group import Group
from servetwin.engine.instance import Instance
from servetwin.engine.lss_group import LssGroup
from servetwin.engine.rank import Rank
from servetwin.engine.tiers import InstanceTiers
from servetwin.step.plans.base import ExecutionPlan, MemberPlan

Unit = Instance | Group


def members(unit: Unit) -> Sequence[Instance]:
    """Return a unit's instances."""
    return unit.ranks if isinstance(unit, Group) else (unit,)


def make_units(
    specs: Sequence[InstanceSpec],
    requests: RequestLog,
    *,
    distinct: bool,
    distinct_answers: bool,
    first_poll_ns: int,
    skipping: bool,
    disaggregation: Disaggregation | None = None,
    tiers: Sequence[InstanceTiers | None],
) -> tuple[list[Unit], list[Instance]]:
    """Return the units in the order of their first instance, and all instances in order.

    Raises
    ------
    InputError
        If a group has more or fewer instances than its plan has ranks.
    """
    units: list[Unit] = []
    instances: list[Instance] = []
    for plan, numbers in _groups(specs):
        if plan is None:
            (number,) = numbers
            spec = specs[number]
            if spec.step_model is None:
                raise InputError("an instance needs a step model or a plan", where=spec.name)
            instance = Instance(
                spec.settings,
                spec.scheduler,
                spec.ordering,
                spec.step_model,
                requests,
                number=number,
                distinct=distinct,
                distinct_answers=distinct_answers,
                first_poll_ns=first_poll_ns,
                skipping=skipping,
                tiers=tiers[number],
            )
            instances.append(instance)
            units.append(instance)
            continue
        _check_ranks(plan, [specs[number] for number in numbers])
        ranks = [
            Rank(
                specs[number].settings,
                specs[number].scheduler,
                specs[number].ordering,
                plan,
                requests,
                number=number,
                distinct=distinct,
                distinct_answers=distinct_answers,
                tiers=tiers[number],
            )
            for number in numbers
        ]
        instances += ranks
        units.append(_group(ranks, plan, first_poll_ns))
    if disaggregation is not None:
        for spec, instance in zip(specs, instances, strict=True):
            instance.hands_over = disaggregation.first_token if spec.role == "prefill" else None
            instance.instant_transfers = disaggregation.transfers is None
    return units, instances


def _group(ranks: Sequence[Rank], plan: ExecutionPlan, first_poll_ns: int) -> Group:
    if hasattr(plan, "member_times_ns"):
        return LssGroup(ranks, cast(MemberPlan, plan), first_poll_ns)
    return Group(ranks, plan, first_poll_ns)


def _groups(specs: Sequence[InstanceSpec]) -> Iterator[tuple[ExecutionPlan | None, list[int]]]:
    """Yield each unit's plan and the numbers of its instances."""

    def key(number: int) -> tuple[int, int]:
        group = specs[number].group
        return (group, 0) if group != NOT_YET else (NOT_YET, number)

    for _, numbers in groupby(range(len(specs)), key):
        own = list(numbers)
        yield specs[own[0]].plan, own


def _check_ranks(plan: ExecutionPlan, ranks: Sequence[InstanceSpec]) -> None:
    if len(ranks) != plan.num_ranks or any(spec.plan is not plan for spec in ranks):
        raise InputError(
            f"a group of {len(ranks)} instances has a plan for {plan.num_ranks} ranks; all of a group share one plan, "
            "and as many instances as it has ranks",
            where=ranks[0].name,
        )
