"""LLMServingSim's data-parallel waves."""

from __future__ import annotations

from collections.abc import Sequence

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


def test_members_are_padded_with_decodes_and_the_slowest_counts() -> None:
    """All get the largest batch's tokens, what they lack as further sequences; an idle one a decode of one token."""
    stage = Parts()
    plan = execution_plans.get("lss_waves")(stages=[stage, stage], num_ranks=3)
    first, second = StepShape(2, 50, ((30, 0),)), StepShape(4, 70)
    times = plan.stage_times_ns([first, second, None])
    assert stage.asked[:3] == [(first, 32, 3), (second, 32, 32), (StepShape(1, 1, (), 1, 1), 32, 32)]
    assert [tuple(time) for time in times] == [(70_000 + 320 + 10, 32)] * 2
    assert (plan.num_ranks, plan.num_stages, plan.needs, plan.notices) == (3, 2, stage.needs, ["said"])
