"""All built-in schedulers and orderings keep their contracts."""

from __future__ import annotations

import pytest

from servetwin.engine import orderings as _orderings  # noqa: F401 (fills the registry)
from servetwin.engine import schedulers as _schedulers  # noqa: F401
from servetwin.engine.base import Ordering, Scheduler, SchedulerView, StepPolicy, orderings, schedulers
from servetwin.testing.policies import OrderingConformance, SchedulerConformance


class TestVllm(SchedulerConformance):
    """vLLM V1."""

    def make(self) -> Scheduler:
        """Return it."""
        return schedulers.get("vllm")()


class TestPrefillFirst(SchedulerConformance):
    """vLLM V0."""

    def make(self) -> Scheduler:
        """Return it."""
        return schedulers.get("vllm_v0")()


class TestOrca(SchedulerConformance):
    """Orca."""

    def make(self) -> Scheduler:
        """Return it."""
        return schedulers.get("orca")()


class TestStatic(SchedulerConformance):
    """Static batching."""

    def make(self) -> Scheduler:
        """Return it."""
        return schedulers.get("static")()


class TestGathering(SchedulerConformance):
    """A scheduler of somebody else's, which reads the queue: it waits for three before it interrupts a batch."""

    def make(self) -> Scheduler:
        """Return it."""

        class Gathering:
            def plan(self, view: SchedulerView) -> StepPolicy:
                idle = view.num_decoding + view.num_prefilling == 0
                return StepPolicy(admit=idle or view.num_waiting >= 3, chunk=False, decode="if_no_prefill")

        return Gathering()


class TestSecondRound(SchedulerConformance):
    """One whose answer changes when the batch has begun to decode: others may enter only then."""

    def make(self) -> Scheduler:
        """Return it."""

        class SecondRound:
            def plan(self, view: SchedulerView) -> StepPolicy:
                idle = view.num_decoding + view.num_prefilling == 0
                return StepPolicy(admit=idle or view.batch_started, chunk=False)

        return SecondRound()


class TestFcfs(OrderingConformance):
    """First come first served."""

    def make(self) -> Ordering:
        """Return it."""
        return orderings.get("fcfs")()


class TestPriority(OrderingConformance):
    """vLLM's priority."""

    def make(self) -> Ordering:
        """Return it."""
        return orderings.get("priority")()


class TestShortestPromptFirst(OrderingConformance):
    """Shortest prompt first."""

    def make(self) -> Ordering:
        """Return it."""
        return orderings.get("shortest_prompt_first")()


def test_every_built_in_policy_is_tested_here() -> None:
    """A new scheduler or ordering must come with its conformance test."""
    assert schedulers.names() == ["orca", "static", "vllm", "vllm_v0"]
    assert orderings.names() == ["fcfs", "priority", "shortest_prompt_first"]


class Stingy(SchedulerConformance):
    """A scheduler that admits nobody, which the conformance test must find out."""

    def make(self) -> Scheduler:
        """Return it."""

        class NeverAdmit:
            def plan(self, view: object) -> StepPolicy:
                return StepPolicy(admit=False, chunk=True)

        return NeverAdmit()


def test_the_conformance_test_can_fail() -> None:
    """A scheduler that serves nobody does not pass."""
    with pytest.raises(Exception, match=r"can never be served|never finished"):
        Stingy().test_everybody_is_served_and_both_engines_agree()
