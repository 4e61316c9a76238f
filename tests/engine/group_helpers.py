"""Short ways to run pipelines and lockstep groups in both engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from engine_helpers import instance

from servetwin.cluster.base import InstanceSpec, SimulationOutcome, routers
from servetwin.cluster.simulation import simulate
from servetwin.step.base import StepShape
from servetwin.step.plans.base import ExecutionPlan
from servetwin.testing.equality import differences
from servetwin.testing.group_plans import SlowestRankPlan
from servetwin.testing.random_groups import AvoidingRouter
from servetwin.testing.stepwise import simulate_stepwise
from servetwin.workload.base import Workload


def stages(
    busy_ns: Sequence[int], *, send_ns: Sequence[int] = (), ranks: int = 1, per_token_ns: int = 0
) -> SlowestRankPlan:
    """Return a plan of stages that take these times, and a little more per token of the rank that has most."""
    return SlowestRankPlan(ranks, busy_ns, [per_token_ns] * len(busy_ns), send_ns or [0] * len(busy_ns))


def group(plan: ExecutionPlan, **settings: int | bool) -> list[InstanceSpec]:
    """Return the ranks of one group, all alike."""
    rank = replace(instance(**settings), step_model=None, plan=plan, group=0)  # type: ignore[arg-type]
    return [replace(rank, name=f"pool-{number}") for number in range(plan.num_ranks)]


def run_group(
    workload: Workload, ranks: Sequence[InstanceSpec], avoided: frozenset[int] = frozenset()
) -> SimulationOutcome:
    """Run both engines, round robin over the ranks that are not avoided, assert that they agree, return the outcome."""

    def router() -> AvoidingRouter:
        return AvoidingRouter(routers.get("round_robin")(seed=1), avoided)

    outcome = simulate(workload, ranks, router(), check_invariants=True)
    assert differences(outcome, simulate_stepwise(workload, ranks, router())) == []
    return outcome


@dataclass
class ShardedRank:
    """A rank model with what tensor and expert parallelism do to it: parts become smaller, collectives come in."""

    tensor: int
    expert: int
    last: bool
    needs: frozenset[str] = frozenset()
    notices: list[str] = field(default_factory=list)

    def own_ns(self, shape: StepShape, num_tokens: int, num_sequences: int) -> float:
        """Return weights, tokens and KV divided by the tensor ranks, and their all-reduce."""
        work = 40 + 6 * num_tokens + shape.decode_kv_tokens + (3 * num_sequences if self.last else 0)
        return work / self.tensor + 2 * (self.tensor - 1)

    def shared_ns(self, tokens: Sequence[int], draw: int) -> float:
        """Return the experts' time, and dispatch and combine."""
        return 5 * sum(tokens) / self.expert + 3 * (self.expert - 1)

    def send_ns(self, num_tokens: int) -> float:
        """Return the way to the next stage."""
        return 0.0 if self.last else 1.5 * num_tokens
