"""How many steps an unchanged batch may run on one plan: it decides how fast a simulation is, not its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servetwin.engine.instance import Instance

FIRST_RUN_STEPS = 8
LONGEST_RUN_STEPS = 4096


def run_steps(instance: Instance) -> int:
    """Return how many steps the present batch of decodes could run unchanged (at least 1)."""
    if instance.preempted or (not instance.batch_started and not instance.asks_once and _answer_changes(instance)):
        return 1
    settings = instance.settings
    looks_again = settings.enable_prefix_caching or settings.async_scheduling
    if instance.waiting and not instance.closed and looks_again:
        return 1  # who waits may need fewer blocks once others have cached more, or be let in one step later
    steps = instance.cohort.rounds_to_finish(instance.run_limit)
    if instance.tiers is not None and instance.tiers.cuts_runs:
        steps = instance.tiers.steps_to_save(instance, steps)
    free = instance.cache.free_blocks
    if (steps // instance.block_size + 1) * instance.cohort.size <= free:
        return steps
    for i, blocks in enumerate(instance.cohort.blocks_of_rounds(1, steps), start=1):
        free -= blocks
        if free < 0:
            return i
    return steps


def _answer_changes(instance: Instance) -> bool:
    """Return whether the scheduler answers otherwise once the batch has begun to decode (a static one closes)."""
    instance.view.batch_started = True
    return instance.scheduler.plan(instance.view) != instance.policy


def adapt_run_limit(instance: Instance, steps: int) -> None:
    """Plan longer runs while runs are used up, shorter ones when they are cut after ``steps``."""
    if steps < instance.planned_steps:
        instance.run_limit = max(FIRST_RUN_STEPS // 2, 2 * steps)
    elif steps >= instance.run_limit:
        instance.run_limit = min(LONGEST_RUN_STEPS, 2 * instance.run_limit)
