"""The contracts of execution plans: how the parts of a step are put together on several ranks and stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from servetwin.core.registry import Registry
from servetwin.step.base import StepShape


class RankModel(Protocol):
    """One pipeline stage of one data-parallel rank: its times in the parts that plans put together.

    A rank is all accelerators that share its layers (tensor parallelism): they act as one, and its times are theirs.
    All ranks of a group are alike and share one rank model per stage.

    A model may have ``graph_limit: int``, the most tokens of a batch for which it has CUDA graphs, 0 for none; plans
    that pad take vLLM's 512 if it does not say.
    """

    needs: frozenset[str]
    """As of a step model: ``"kv_extremes"``, ``"draw"``, or nothing."""

    notices: list[str]
    """What the user should know, each said once."""

    def own_ns(self, shape: StepShape, num_tokens: int, num_sequences: int) -> float:
        """Return what a rank does by itself: all but the routed experts, in nanoseconds.

        Parameters
        ----------
        num_tokens, num_sequences
            Rows of the layers over tokens and over sequences: the shape's own, or more where the engine pads them.
        """
        ...

    def shared_ns(self, tokens: Sequence[int], draw: int) -> float:
        """Return what the ranks do together: dispatch, the slowest rank's routed experts, combine; 0 without experts.

        Parameters
        ----------
        tokens
            Tokens of each attention rank, as they are sent (padded where the engine pads).
        draw
            What random numbers are drawn by.
        """
        ...

    def send_ns(self, num_tokens: int) -> float:
        """Return what it takes to send a batch's activations to the next stage; 0 for the last stage."""
        ...


class SharedTime(NamedTuple):
    """What the ranks of a stage do together in a batch, by whether they compute or exchange data, in nanoseconds."""

    dispatch_ns: float
    experts_ns: float
    combine_ns: float

    @property
    def total_ns(self) -> float:
        """All of it, one after the other."""
        return self.dispatch_ns + self.experts_ns + self.combine_ns


NOTHING_SHARED = SharedTime(0.0, 0.0, 0.0)


class OverlapModel(RankModel, Protocol):
    """A rank model that also tells apart what plans can overlap; two-batch overlap needs one."""

    expert_layers: int
    """Layers with routed experts in this stage."""

    overlap_slowdown: float
    """How many times as long computing takes while multiprocessors are kept for exchanging; 1 where none are."""

    def once_ns(self, num_sequences: int) -> float:
        """Return the part of ``own_ns`` that a batch costs once however it is cut: LM head, sampler, host."""
        ...

    def shared_parts_ns(self, tokens: Sequence[int], draw: int) -> SharedTime:
        """Return ``shared_ns`` in its parts."""
        ...


class FfnTime(NamedTuple):
    """What one micro-batch takes of FFN devices and of the links to them, all layers together, in nanoseconds.

    ``dispatch_ns`` and ``combine_ns`` are how long the busiest port sends and receives; latency comes on top.
    """

    dispatch_ns: float
    ffn_ns: float
    combine_ns: float


class FfnModel(Protocol):
    """The FFNs (MLPs, experts) of all layers, on devices of their own; the plan `attention_ffn` needs one."""

    needs: frozenset[str]
    notices: list[str]

    num_layers: int
    """Layers whose hidden states travel to the FFN devices and back."""

    delay_ns: float
    """Latency of one way, in nanoseconds: it occupies nothing."""

    def parts_ns(self, tokens: Sequence[int], draw: int) -> FfnTime:
        """Return the time of one micro-batch; ``tokens`` and ``draw`` as of `RankModel.shared_ns`."""
        ...


class StageTime(NamedTuple):
    """One stage's part of a batch, in whole nanoseconds: how long it is busy, and the way to the next stage."""

    busy_ns: int
    send_ns: int


class ExecutionPlan(Protocol):
    """How a batch is carried out by ranks in lockstep and stages in a row.

    Deterministic, like a step model: equal shapes take equal times.
    """

    num_ranks: int
    """Data-parallel ranks that step together (1: a replica by itself)."""

    num_stages: int
    """Pipeline stages, which is also how many batches may be in flight."""

    needs: frozenset[str]

    @property
    def notices(self) -> list[str]:
        """What the user should know, each said once."""
        ...

    def stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[StageTime]:
        """Return the time of each stage for one batch.

        Parameters
        ----------
        shapes
            What each rank computes, of length ``num_ranks``; None for one that has nothing to do (at least one has).
        """
        ...


class MemberTimes(NamedTuple):
    """One stage's part of a batch: how long each rank is busy, and the way to the next stage, in whole nanoseconds."""

    busy_ns: Sequence[int]
    send_ns: int


class MemberPlan(ExecutionPlan, Protocol):
    """An execution plan that has ``member_times_ns``: its ranks end their batches one by one, as LLMServingSim's do."""

    lead_ns: int | None
    """How long before the last one a rank can leave a stage; None: as long as it will."""

    late_members_join_idle: bool
    """Whether a rank that cannot schedule at once joins the others' wave with an idle batch; False: they wait."""

    def member_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[MemberTimes]:
        """Return the time of each stage for one batch, rank by rank; else as ``stage_times_ns``."""
        ...


execution_plans: Registry[ExecutionPlan] = Registry("execution plan")
"""Factories take ``(stages: Sequence[RankModel], num_ranks: int)`` by keyword and their own options."""
