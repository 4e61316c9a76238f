"""The plan of a lockstep group: data-parallel attention ranks that share their routed experts."""

from __future__ import annotations

from collections.abc import Sequence

from servetwin.step.base import StepShape
from servetwin.step.graphs import LARGEST, padded_tokens
from servetwin.step.plans.base import RankModel, StageTime, execution_plans

DUMMY = StepShape(1, 0)
"""What an idle rank runs so that the others' collectives find it: one token, no KV that it would read, no logits."""


@execution_plans.register("lockstep")
class Lockstep:
    """All ranks compute their own batch, padded to the largest, and meet in every layer to share the experts.

    Layers are alike, so that meeting in each is the same as meeting once: the slowest rank's own part, then the part
    they do together. An idle rank runs a dummy batch. Mirrors vLLM 0.19 (``DPEngineCoreProc``, ``execute_dummy_batch``,
    ``coordinate_batch_across_dp``): all ranks are padded to the largest CUDA graph among them; if one has more tokens
    than any graph, none runs a graph and each stays as it is.

    Parameters
    ----------
    stages
        The rank model of each pipeline stage.
    num_ranks
        Data-parallel ranks.
    synchronisation_us
        What it takes the ranks' hosts to agree on a batch's size (an all-reduce of a few numbers, over Gloo with
        asynchronous scheduling), once per batch and not hidden. Not published; 0 leaves it out.
    """

    def __init__(self, stages: Sequence[RankModel], num_ranks: int, synchronisation_us: float = 0.0) -> None:
        self.num_ranks = num_ranks
        self.num_stages = len(stages)
        self.needs = frozenset[str]().union(*(stage.needs for stage in stages))
        self._stages = stages
        self._limit = min(getattr(stage, "graph_limit", LARGEST) for stage in stages)
        self._synchronisation_ns = synchronisation_us * 1000.0 if num_ranks > 1 else 0.0

    @property
    def notices(self) -> list[str]:
        """What the stages say."""
        return list(dict.fromkeys(notice for stage in self._stages for notice in stage.notices))

    def stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[StageTime]:
        """See `ExecutionPlan`."""
        batches = [shape or DUMMY for shape in shapes]
        sequences = [shape.num_sequences if shape else 0 for shape in shapes]
        tokens = self.padded([shape.num_tokens for shape in batches])
        draw = max(shape.draw for shape in batches)
        times = []
        for stage in self._stages:
            own_ns = max(map(stage.own_ns, batches, tokens, sequences))
            busy_ns = own_ns + stage.shared_ns(tokens, draw)
            if stage is self._stages[0]:
                busy_ns += self._synchronisation_ns
            times.append(StageTime(round(busy_ns) or 1, round(stage.send_ns(max(tokens)))))
        return times

    def padded(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens that each rank computes, from those of its batch."""
        if not self._limit:
            return list(tokens)
        graphs = [padded_tokens(number) for number in tokens]
        most = max(graphs)
        return [most] * len(graphs) if most <= self._limit else graphs
