"""How busy attention devices, FFN devices and the link between them were in a run: where it was limited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import SimulationOutcome
from servetwin.energy.ffn import groups_of, waves_of
from servetwin.energy.model import rows_by_instance
from servetwin.energy.steps import InstanceSteps, steps_of
from servetwin.step.base import StepShape
from servetwin.step.plans.attention_ffn import AttentionFfn, Use
from servetwin.step.plans.rebalancing import Rebalancing

SAMPLES = 200
"""Waves of a group that are looked at, evenly spread."""


def side_use(outcome: SimulationOutcome) -> dict[str, Any]:
    """Return, by pool, the share of its steps' time in which each side was busy; empty without such pools.

    From a sample of the first group's waves, each put together again from what the instances wrote down.
    """
    plans = {spec.pool: plan for spec in outcome.instances if (plan := _plan(spec.plan)) is not None}
    if not plans:
        return {}
    rows = rows_by_instance(outcome)
    found = {}
    for pool, plan in plans.items():
        members = groups_of(pool, outcome)[0]
        uses = _uses(plan, [steps_of(outcome, number, rows[number]) for number in members])
        if uses:
            found[pool] = _summary(uses)
    return found


def _plan(plan: object) -> AttentionFfn | None:
    inner = plan.plan if isinstance(plan, Rebalancing) else plan
    return inner if isinstance(inner, AttentionFfn) else None


def _uses(plan: AttentionFfn, steps: Sequence[InstanceSteps]) -> list[Use]:
    waves = waves_of(steps)
    count = len(waves.steps.start_ns)
    picked = np.unique(np.linspace(0, max(count - 1, 0), SAMPLES).astype(np.int64))[:count]
    uses = []
    for number in picked:
        shapes = [_shape(own, wave, int(number)) for own, wave in zip(steps, waves.wave, strict=True)]
        if any(shapes):
            uses.append(plan.use_of(shapes))
    return uses


def _shape(steps: InstanceSteps, wave: NDArray[np.int64], number: int) -> StepShape | None:
    """Return what a rank computed in a wave, its prompts as one chunk; None for nothing."""
    place = int(np.searchsorted(wave, number))
    if place == len(wave) or wave[place] != number:
        return None
    columns = steps.columns
    decodes, new = int(columns.num_decodes[place]), round(float(columns.prefill_tokens[place]))
    if not decodes + new:
        return None
    kv = int(columns.decode_kv_tokens[place])
    context = round(float(columns.prefill_context[place]) / max(1.0, float(columns.num_prefills[place])))
    mean = kv // max(1, decodes)
    return StepShape(decodes, kv, ((new, context),) if new else (), mean, mean)


def _summary(uses: Sequence[Use]) -> dict[str, Any]:
    total_ns = sum(use.total_ns for use in uses)
    link_ns = max(sum(use.dispatch_ns for use in uses), sum(use.combine_ns for use in uses))
    shares = {
        "attention": sum(use.attention_ns for use in uses) / total_ns,
        "ffn": sum(use.ffn_ns for use in uses) / total_ns,
        "link": link_ns / total_ns,
    }
    return {
        "limited_by": max(shares, key=lambda name: shares[name]),
        **{f"{name}_busy": share for name, share in shares.items()},
        "micro_batches": sum(use.micro_batches for use in uses) / len(uses),
    }
