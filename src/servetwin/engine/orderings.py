"""The order of the waiting queue, as key functions."""

from __future__ import annotations

from servetwin.engine.base import orderings


@orderings.register("fcfs")
class FirstComeFirstServed:
    """Waiting requests by arrival; the last of the running list is preempted first."""

    preempts_by_key = False

    def key(self, arrival_ns: int, priority: int, prompt_tokens: int) -> tuple[int, ...]:
        """Order by arrival."""
        return (arrival_ns,)


@orderings.register("priority")
class Priority:
    """vLLM's priority policy: smaller values first, then arrival; the greatest of these is preempted first."""

    preempts_by_key = True

    def key(self, arrival_ns: int, priority: int, prompt_tokens: int) -> tuple[int, ...]:
        """Order by priority, then arrival."""
        return (priority, arrival_ns)


@orderings.register("shortest_prompt_first")
class ShortestPromptFirst:
    """Waiting requests by prompt length, then arrival; the last of the running list is preempted first."""

    preempts_by_key = False

    def key(self, arrival_ns: int, priority: int, prompt_tokens: int) -> tuple[int, ...]:
        """Order by prompt length, then arrival."""
        return (prompt_tokens, arrival_ns)
