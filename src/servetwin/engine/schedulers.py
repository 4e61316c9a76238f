"""Who may run in a step: vLLM V1, vLLM V0, Orca and static batching as pure policies."""

from __future__ import annotations

from servetwin.engine.base import SchedulerView, StepPolicy, schedulers

_MIXED_CHUNKED = StepPolicy(admit=True, chunk=True)
_MIXED_WHOLE = StepPolicy(admit=True, chunk=False)
_PREFILL_FIRST = StepPolicy(admit=True, chunk=False, decode="if_no_prefill")
_CLOSED_BATCH = StepPolicy(admit=False, chunk=False, decode="if_no_prefill")


@schedulers.register("vllm")
class VllmScheduler:
    """vLLM V1 (0.19): running requests first, then waiting ones beside them, prompts in chunks if allowed."""

    reads: frozenset[str] = frozenset()

    def plan(self, view: SchedulerView) -> StepPolicy:
        """Mix decodes and prefills in one step."""
        return _MIXED_CHUNKED if view.enable_chunked_prefill else _MIXED_WHOLE


@schedulers.register("orca")
class OrcaScheduler:
    """Orca (OSDI 2022): iteration-level scheduling, whole prompts beside decodes."""

    reads: frozenset[str] = frozenset()

    def plan(self, view: SchedulerView) -> StepPolicy:
        """Mix decodes and whole prompts in one step."""
        return _MIXED_WHOLE


@schedulers.register("vllm_v0")
class PrefillFirstScheduler:
    """vLLM V0: a step computes either whole prompts (if any can enter) or one token of every running request."""

    reads: frozenset[str] = frozenset()

    def plan(self, view: SchedulerView) -> StepPolicy:
        """Prefer prefills; decode when none can enter."""
        return _PREFILL_FIRST


@schedulers.register("static")
class StaticScheduler:
    """FasterTransformer: a batch is filled, prefilled, and decoded to the end of its longest request."""

    def plan(self, view: SchedulerView) -> StepPolicy:
        """Fill the batch until it starts to decode, then let nobody in before it is empty."""
        return _CLOSED_BATCH if view.batch_started else _PREFILL_FIRST
