"""Short ways to run prompts on one instance and outputs on another in both engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from engine_helpers import instance

from servetwin.cluster.base import Disaggregation, InstanceSpec, Role, SimulationOutcome, Transfers, routers
from servetwin.cluster.simulation import simulate
from servetwin.engine.base import FirstToken
from servetwin.testing.equality import differences
from servetwin.testing.stepwise import simulate_stepwise
from servetwin.testing.transfers import ConstantTransfers
from servetwin.workload.base import Workload


class RecordedTransfers(ConstantTransfers):
    """Constant transfers that remember what they were asked for: (source, target, tokens)."""

    def __init__(self, latency_ns: int = 0, token_ns: int = 0) -> None:
        super().__init__(latency_ns, token_ns)
        self.asked: list[tuple[int, int, int]] = []

    def start(self, now_ns: int, source: int, target: int, tokens: int) -> int:
        """Begin a transfer."""
        self.asked.append((source, target, tokens))
        return super().start(now_ns, source, target, tokens)


def pool(role: Role, **settings: int | bool) -> InstanceSpec:
    """Return an instance in a role; without further settings it has room for everything."""
    return replace(instance(**settings), role=role)  # type: ignore[arg-type]


def in_role(role: Role, number: int, ranks: Sequence[InstanceSpec]) -> list[InstanceSpec]:
    """Return the ranks of a group with a role and a group number."""
    return [replace(spec, role=role, group=number) for spec in ranks]


def run_apart(
    workload: Workload,
    instances: Sequence[InstanceSpec],
    transfers: Callable[[], Transfers] | None = None,
    *,
    first_token: FirstToken = "prefill",
    handoff_ns: int = 0,
    local_prompt_tokens: int = 0,
    router: str = "round_robin",
) -> SimulationOutcome:
    """Run both engines with a router of this name on both hops, assert that they agree, return the fast one's outcome.

    ``transfers`` makes a fresh carrier for each run; without it KV is there at once.
    """
    named = [replace(spec, name=f"pool-{number}") for number, spec in enumerate(instances)]

    def how() -> Disaggregation:
        carrier = transfers() if transfers else None
        return Disaggregation(
            routers.get(router)(seed=2), carrier, handoff_ns, first_token, local_prompt_tokens=local_prompt_tokens
        )

    first = routers.get(router)(seed=1)
    outcome = simulate(workload, named, first, disaggregation=how(), check_invariants=True)
    slow = simulate_stepwise(workload, named, routers.get(router)(seed=1), disaggregation=how())
    assert differences(outcome, slow) == []
    return outcome
