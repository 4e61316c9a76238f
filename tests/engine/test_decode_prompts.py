"""What a step model may ask of the decodes: their prompts, in running order, in both engines."""

from __future__ import annotations

from engine_helpers import instance, requests, run

from servetwin.cluster.base import routers
from servetwin.cluster.simulation import simulate
from servetwin.step.base import StepModelBase, StepShape


class Prompts(StepModelBase):
    """A step model that writes down what prompts it is given."""

    needs = frozenset({"decode_prompts"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def duration_ns(self, shape: StepShape) -> int:
        """Return a time that depends on the prompts and their order."""
        self.seen.append(shape.decode_prompts)
        return 10 + sum(place * prompt for place, prompt in enumerate(shape.decode_prompts, 1))


def test_prompts_of_the_decodes_are_given_in_running_order() -> None:
    """Those of requests that decode in the step; a request that computes its prompt is not among them."""
    model = Prompts()
    run(requests((0, 7, 4), (0, 3, 2), (5, 9, 3)), instance(step_model=model))
    assert model.seen[0] == ()
    assert (7, 3) in model.seen
    assert (7, 9) in model.seen
    assert all(len(prompts) <= 3 for prompts in model.seen)


def test_nobody_pays_who_does_not_ask() -> None:
    """A model that needs nothing gets none."""
    model = Prompts()
    model.needs = frozenset()
    simulate(requests((0, 7, 4), (0, 3, 2)), [instance(step_model=model)], routers.get("round_robin")())
    assert set(model.seen) == {()}
