"""Plug-ins that break their contract are named; nothing leaks out of the loop as a bare exception."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from engine_helpers import instance, requests

from servetwin.cluster.base import routers
from servetwin.cluster.simulation import simulate
from servetwin.core.errors import InputError, InvariantError
from servetwin.step.base import StepModelBase, StepShape


class Chooses:
    """A router that always answers the same."""

    reads: frozenset[str] = frozenset({"outstanding"})

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def choose(self, *_: object) -> Any:
        """Return the answer."""
        return self.answer


class Takes(StepModelBase):
    """A step model whose steps take what it is told."""

    def __init__(self, duration_ns: Any) -> None:
        super().__init__()
        self.answer = duration_ns

    def duration_ns(self, shape: StepShape) -> Any:
        """Return it."""
        return self.answer


class Plans:
    """A scheduler that plans nonsense."""

    def plan(self, view: object) -> Any:
        """Return None."""
        return None


@pytest.mark.parametrize("answer", [7, -1, None, "0", 0.0])
def test_a_router_must_choose_a_candidate(answer: Any) -> None:
    """Any other answer is shown with what was on offer."""
    with pytest.raises(
        InvariantError, match=r"router Chooses chose .*; it must return one of the instance numbers 0, 1"
    ):
        simulate(requests((0, 1, 1)), [instance(), instance()], Chooses(answer))


def test_a_router_must_say_what_it_reads() -> None:
    """Unknown columns are answered with the nearest, a missing declaration with the contract."""
    router = Chooses(0)
    router.reads = frozenset({"outstandin"})
    with pytest.raises(InputError, match="did you mean 'outstanding'"):
        simulate(requests((0, 1, 1)), [instance()], router)
    with pytest.raises(InputError, match="has no reads, choose"):
        simulate(requests((0, 1, 1)), [instance()], object())  # type: ignore[arg-type]


@pytest.mark.parametrize("duration_ns", [0, -5])
def test_steps_must_take_time(duration_ns: int) -> None:
    """Time never stands still or runs back."""
    with pytest.raises(InvariantError, match=f"step model Takes says that a step takes {duration_ns} ns"):
        simulate(requests((0, 1, 1)), [instance(step_model=Takes(duration_ns))], routers.get("random")())


def test_schedulers_and_step_models_must_keep_their_contract() -> None:
    """What they lack or return instead is named."""
    spec = instance()
    with pytest.raises(InvariantError, match="scheduler Plans returned None, not a StepPolicy"):
        simulate(requests((0, 1, 1)), [replace(spec, scheduler=Plans())], routers.get("random")())
    with pytest.raises(InputError, match="a step model must have needs, notices"):
        simulate(requests((0, 1, 1)), [replace(spec, step_model=Plans())], routers.get("random")())  # type: ignore[arg-type]
