"""Scheduling the running requests one by one, in order: needed only where tokens or blocks are short.

While everybody gets what they ask for, order does not matter and the instance schedules its cohort with a few sums.
When blocks run out somebody is preempted, and when the budget runs out somebody is left out: then who stands where
decides, and this walks through them as vLLM's scheduler does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from servetwin.engine.preemption import leave_cohort, preempt
from servetwin.engine.request import Request

if TYPE_CHECKING:
    from servetwin.engine.instance import Instance


def schedule_in_order(instance: Instance, *, decodes: bool, prefills: bool) -> None:
    """Schedule running requests in running order, preempting where blocks are short.

    Sets the instance's ``chunks``, ``decoding``, ``paused`` and ``budget``; decoding requests that get no token leave
    the cohort for the step.
    """
    order = instance.running_order()
    scheduled: dict[int, int] = {}
    index = 0
    while index < len(order) and instance.budget > 0:
        request = order[index]
        if not (prefills if request.prefilling else decodes):
            index += 1
            continue
        tokens = _wanted(instance, request)
        index -= _make_room(instance, order, scheduled, request, tokens)
        if _missing(instance, request, tokens) > instance.cache.free_blocks or request.row not in instance.running:
            instance.preempted = True  # nobody can be let in either
            break
        _give(instance, request, tokens)
        scheduled[request.row] = tokens
        instance.budget -= tokens
        index += 1
    _settle(instance, order, scheduled)


def _make_room(
    instance: Instance, order: list[Request], scheduled: dict[int, int], request: Request, tokens: int
) -> int:
    """Preempt until there are blocks for ``request``; return how many of those before it in ``order`` went.

    It may have to go itself, and in a pipeline it may be that nobody can go.
    """
    went = 0
    while _missing(instance, request, tokens) > instance.cache.free_blocks:
        victim = _victim(instance, order)
        if victim is None:
            break
        if order.index(victim) < order.index(request):
            went += 1
        order.remove(victim)
        given = scheduled.pop(victim.row, 0)
        instance.budget += given
        preempt(instance, victim, given)
        if victim is request:
            break
    return went


def _context(instance: Instance, request: Request) -> int:
    return request.computed_tokens if request.prefilling else request.base + instance.cohort.round


def _wanted(instance: Instance, request: Request) -> int:
    if not request.prefilling:
        return 1
    return min(instance.wanted_tokens(request), instance.budget)


def _missing(instance: Instance, request: Request, tokens: int) -> int:
    context = _context(instance, request)
    held = request.num_blocks if request.prefilling else -(-context // instance.block_size)
    return -(-(context + tokens) // instance.block_size) - held


def _give(instance: Instance, request: Request, tokens: int) -> None:
    if request.prefilling:
        instance.cache.extend(request, request.computed_tokens + tokens)
        return
    blocks = _missing(instance, request, tokens)
    if blocks:
        instance.cache.take(blocks)
    if instance.shares_blocks:
        instance.cache.register(request, _context(instance, request) + tokens)


def _victim(instance: Instance, order: list[Request]) -> Request | None:
    """Return who is preempted first; None while that one is in flight, so that nobody is thrown out in its stead."""
    if not instance.has_lanes:
        return max(order, key=_order_key) if instance.ordering.preempts_by_key else order[-1]
    everybody = instance.running.values()
    victim = max(everybody, key=_order_key) if instance.ordering.preempts_by_key else next(reversed(everybody))
    return None if victim.in_flight or victim not in order else victim


def _order_key(request: Request) -> tuple[int, ...]:
    return request.order_key


def _settle(instance: Instance, order: list[Request], scheduled: dict[int, int]) -> None:
    """Turn who got what into the step: prefill chunks, the cohort, and who is left out of it."""
    instance.chunks = [(r, scheduled[r.row]) for r in order if r.prefilling and r.row in scheduled]
    members = [r for r in order if not r.prefilling]
    if not any(r.row in scheduled for r in members):
        return
    instance.decoding = True
    for request in members:
        if request.row not in scheduled:
            leave_cohort(instance, request)
            instance.paused.append(request)
