"""Makes a pool's step model from its name and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import servetwin.step.affine
import servetwin.step.fixed  # noqa: F401  (these imports register the built-in step models)
from servetwin.scenario.factories import make
from servetwin.scenario.hardware import Replica
from servetwin.step.base import StepModel, step_models

__all__ = ["build_step_model", "step_models"]


def build_step_model(replica: Replica) -> StepModel:
    """Return the step model of a pool's replicas.

    Raises
    ------
    InputError
        For an unknown model or option, or what the model says of its data.
    """
    options, where = replica.pool.step, f"{replica.where}.step"
    if not isinstance(options.model, str):
        given: StepModel = options.model
        return given
    factory = step_models.get(options.model, where=f"{where}.model")
    return make(factory, _given(replica), _context(replica, where), where)


def _given(replica: Replica) -> dict[str, Any]:
    """Return what the user wrote beside the model's name, the host overhead included where any of it is set."""
    options = replica.pool.step
    given = options.extra
    if options.path is not None:
        given["path"] = options.path
    return given


def _context(replica: Replica, where: str) -> Mapping[str, Callable[[], Any]]:
    return {}
