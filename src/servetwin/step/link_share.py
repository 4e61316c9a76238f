"""How much of a step is bytes on a link that others use, too: collectives, and loads of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, cast

from servetwin.core.errors import InputError
from servetwin.core.units import NS_PER_S
from servetwin.step.base import StepModel, StepShape
from servetwin.step.plans.base import ExecutionPlan

Timing = StepModel | ExecutionPlan


class LoadingStepModel(StepModel, Protocol):
    """A step model that loads weights over a link."""

    def loaded_bytes(self, shape: StepShape) -> Mapping[str, float]:
        """Return the bytes that one rank loads in a step, by memory device."""
        ...


class LinkUse(NamedTuple):
    """What a step does on a link: how long its bytes take alone, and how much longer they may without delaying it."""

    transfer_ns: int
    hidden_ns: int


class LinkTime:
    """Time of a step that follows from the bandwidth of a link.

    Time on a link is latencies + bytes / bandwidth. At half the bandwidth a step lasts longer by the second part, as
    its own model has it: algorithms, overlap with computation and the slowest rank included. Of loads of weights the
    bytes are known. They take ``b / s`` on the link with a share ``s`` of it, and as long as their memory ``m`` takes
    where that is longer: ``max(m, b / s) - m`` more than alone. What a step with memory of half the bandwidth does not
    last longer by is hidden behind computing.

    Parameters
    ----------
    timing
        What times the steps.
    collectives
        The same with half the bandwidth for collectives; None: they have links of their own.
    loads
        The same with half the bandwidth for loads of weights; None: they have links of their own, or there are none.
    link_bytes_per_s
        Bandwidth of one accelerator's link, at least that of the memory from which loads come.
    memory_bytes_per_s
        What one accelerator gets of each memory device from which loads come.

    Raises
    ------
    InputError
        For a plan with several stages, or one whose ranks end apart: a step of theirs is not one span of time; or for
        loads under any plan.
    """

    def __init__(
        self,
        timing: Timing,
        collectives: Timing | None,
        loads: Timing | None = None,
        *,
        link_bytes_per_s: float = 0.0,
        memory_bytes_per_s: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        if getattr(timing, "num_stages", 1) > 1 or hasattr(timing, "member_times_ns"):
            raise InputError(
                "steps that share links with KV are modelled for plain instances and lockstep groups; "
                f"{type(timing).__name__} has several batches in flight"
            )
        if loads is not None and not hasattr(timing, "loaded_bytes"):
            raise InputError(
                f"loads of weights that share links with KV are modelled for plain instances; {type(timing).__name__} "
                "does not tell its loads"
            )
        self._timing, self._collectives, self._loads = timing, collectives, loads
        self._link_bytes_per_s, self._memory_bytes_per_s = link_bytes_per_s, memory_bytes_per_s
        self.comes_in = collectives is None
        """Whether all that it moves comes in, and nothing leaves by the link (loads alone)."""

    def of(self, shapes: Sequence[StepShape | None]) -> LinkUse:
        """Return what a step does on the link; ``shapes``: of each rank, None for one that keeps the others company."""
        alone_ns = _step_ns(self._timing, shapes)
        transfer_ns = hidden_ns = 0
        if self._collectives is not None:
            transfer_ns = max(0, _step_ns(self._collectives, shapes) - alone_ns)
        if self._loads is not None:
            loads_ns, on_link_ns = self._loads_ns(shapes)
            waits_ns = max(0, _step_ns(self._loads, shapes) - alone_ns)
            hidden_ns = max(0, loads_ns - waits_ns) + loads_ns - on_link_ns
            transfer_ns += on_link_ns
        return LinkUse(transfer_ns, hidden_ns)

    def _loads_ns(self, shapes: Sequence[StepShape | None]) -> tuple[int, int]:
        """Return how long a step's loads take as their memory has it, and what of that the link needs alone."""
        model, (shape,) = cast(LoadingStepModel, self._timing), shapes
        if shape is None:
            return 0, 0
        loaded = model.loaded_bytes(shape)
        seconds = sum(num_bytes / self._memory_bytes_per_s[device] for device, num_bytes in loaded.items())
        loads_ns = round(seconds * NS_PER_S)
        return loads_ns, min(loads_ns, round(sum(loaded.values()) / self._link_bytes_per_s * NS_PER_S))


def _step_ns(timing: Timing, shapes: Sequence[StepShape | None]) -> int:
    if hasattr(timing, "stage_times_ns"):
        return sum(stage.busy_ns for stage in cast(ExecutionPlan, timing).stage_times_ns(shapes))
    (shape,) = shapes
    return timing.duration_ns(shape) if shape is not None else 0
