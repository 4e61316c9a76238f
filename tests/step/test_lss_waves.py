"""LLMServingSim's data-parallel waves: how a batch is padded, and how long it takes each member."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from servetwin.core.errors import InputError
from servetwin.step.base import StepShape
from servetwin.step.plans.base import execution_plans


class Parts:
    """A stage whose parts are told apart by their digits."""

    needs: frozenset[str] = frozenset({"kv_extremes"})

    def __init__(self) -> None:
        self.notices = ["said"]
        self.asked: list[tuple[StepShape, int, int]] = []

    def own_ns(self, shape: StepShape, num_tokens: int, num_sequences: int) -> float:
        """Return a number of each argument."""
        self.asked.append((shape, num_tokens, num_sequences))
        return 1000.0 * shape.decode_kv_tokens + 10 * num_sequences

    def shared_ns(self, tokens: Sequence[int], draw: int) -> float:
        """Return the sum of tokens."""
        return 0.1 * sum(tokens)

    def send_ns(self, num_tokens: int) -> float:
        """Return the tokens."""
        return float(num_tokens)


def test_members_are_padded_with_decodes_and_timed_one_by_one() -> None:
    """All get the largest batch's tokens, what they lack as further sequences; an idle one a decode of one token."""
    stage = Parts()
    plan = execution_plans.get("lss_waves")(stages=[stage, stage], num_ranks=3)
    first, second = StepShape(2, 50, ((30, 0),)), StepShape(4, 70)
    (times, _) = plan.member_times_ns([first, second, None])
    assert stage.asked[:3] == [(first, 32, 3), (second, 32, 32), (StepShape(1, 1, (), 1, 1), 32, 32)]
    assert times == ([50_000 + 30 + 10, 70_000 + 320 + 10, 1_000 + 320 + 10], 32)
    assert [tuple(time) for time in plan.stage_times_ns([first, second, None])] == [(70_000 + 320 + 10, 32)] * 2
    assert (plan.num_ranks, plan.num_stages, plan.needs, plan.notices) == (3, 2, stage.needs, ["said"])
    assert (plan.late_members_join_idle, plan.lead_ns) == (False, None)


def test_a_lead_is_no_negative_time() -> None:
    """The message names the figure."""
    with pytest.raises(InputError, match="lead_ns is -1"):
        execution_plans.get("lss_waves")(stages=[Parts()], num_ranks=2, lead_ns=-1)
