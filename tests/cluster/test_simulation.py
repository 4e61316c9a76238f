"""The event loop: sessions, closed loops, front ends, models, and runs that cannot end."""

from __future__ import annotations

import numpy as np
import pytest
from engine_helpers import STEP_NS, instance, requests, run, steps_of

from servetwin.cluster.base import FrontEnd, InstanceSpec, routers
from servetwin.cluster.simulation import simulate
from servetwin.core.errors import StuckError
from servetwin.engine.base import COMPLETED, PENDING, REJECTED, SchedulerView, StepPolicy
from servetwin.step.base import StepModelBase, StepShape
from servetwin.workload.base import NO_PARENT, RELEASED_LATER


def test_a_turn_arrives_when_the_one_before_has_ended_and_its_delay_has_passed() -> None:
    """The second turn arrives 7 ns after the first one's last token."""
    workload = requests((0, 1, 3), (RELEASED_LATER, 1, 1))
    workload.parent = np.array([NO_PARENT, 0])
    workload.delay_ns = np.array([0, 7])
    outcome = run(workload, instance())
    assert list(outcome.requests.arrival_ns) == [0, 3 * STEP_NS + 7]


def test_a_closed_loop_keeps_its_concurrency() -> None:
    """Three items with two at a time: the third arrives when the first ends."""
    workload = requests(*[(RELEASED_LATER, 1, n) for n in (2, 4, 1)])
    workload.concurrency = 2
    outcome = run(workload, instance())
    assert list(outcome.requests.arrival_ns) == [0, 0, 2 * STEP_NS]


def test_later_turns_of_a_rejected_request_are_rejected_and_the_loop_goes_on() -> None:
    """The lost session frees its place in the closed loop."""
    workload = requests(*[(RELEASED_LATER, p, 1) for p in (99, 1, 1)])
    workload.parent = np.array([NO_PARENT, 0, NO_PARENT])
    workload.concurrency = 1
    outcome = run(workload, instance(max_model_len=50))
    assert list(outcome.requests.state) == [REJECTED, REJECTED, COMPLETED]
    assert outcome.requests.reasons[1] == "an earlier turn of its session was rejected"


def test_a_front_end_delays_arrivals_and_follow_ups() -> None:
    """A request reaches the server later, and the client thinks only when the answer has reached it."""
    workload = requests((0, 1, 1), (RELEASED_LATER, 1, 1))
    workload.parent = np.array([NO_PARENT, 0])
    outcome = simulate(workload, [instance()], routers.get("round_robin")(), front_end=FrontEnd(3, 4))
    assert list(outcome.requests.arrival_ns) == [3, 3 + STEP_NS + 4 + 3]


def test_a_request_goes_only_where_its_model_is_served() -> None:
    """Two pools with different models; a third model is rejected with its name."""
    a, b = instance(), instance()
    pools = [
        InstanceSpec("a", "a", "none", "A", a.settings, a.scheduler, a.ordering, a.step_model),
        InstanceSpec("b", "b", "none", "B", b.settings, b.scheduler, b.ordering, b.step_model),
    ]
    workload = requests((0, 1, 1), (0, 1, 1), (0, 1, 1))
    workload.model = ["B", "A", "C"]
    outcome = run(workload, *pools)
    assert list(outcome.requests.instance[:2]) == [1, 0]
    assert outcome.requests.reasons == {2: "no pool serves the model 'C'"}


class NeverAdmit:
    """A scheduler that lets nobody in."""

    def plan(self, view: SchedulerView) -> StepPolicy:
        """Refuse."""
        return StepPolicy(admit=False, chunk=True)


def test_a_run_that_can_make_no_progress_says_who_waits_for_what() -> None:
    """Requests that nobody will ever admit end in an error that names the instance, the request and its need."""
    spec = instance()
    stuck = InstanceSpec("chat-0", "chat", "none", None, spec.settings, NeverAdmit(), spec.ordering, spec.step_model)
    with pytest.raises(StuckError, match=r"chat-0: 2 waiting, 0 of 256 running.*row 0 with 8 tokens.*2 blocks"):
        simulate(requests((0, 8, 1), (5, 1, 1)), [stuck], routers.get("round_robin")())


class Interrupting(StepModelBase):
    """A step model at whose fifth step the user presses Ctrl-C."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def duration_ns(self, shape: StepShape) -> int:
        """Take ten nanoseconds, five times."""
        self.calls += 1
        if self.calls == 5:
            raise KeyboardInterrupt
        return STEP_NS


def test_an_interrupted_run_keeps_what_was_finished() -> None:
    """The finished request is there, the other has the tokens it got, and the outcome says that it is incomplete."""
    workload = requests((0, 1, 2), (0, 1, 50))
    outcome = simulate(workload, [instance(step_model=Interrupting())], routers.get("round_robin")(), skipping=False)
    assert not outcome.complete
    assert list(outcome.requests.state) == [COMPLETED, PENDING]
    assert steps_of(outcome) == [[1, 2], [1, 2, 3, 4]]
