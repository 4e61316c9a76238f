"""The contract of the step model: how long one engine step takes, from its shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from servetwin.core.registry import Registry


@dataclass(slots=True)
class StepShape:
    """What one step computes on one instance: sums over decoding requests, one entry per prefill chunk.

    Attributes
    ----------
    num_decodes
        Requests that compute one token at the end of their sequence (generation).
    decode_kv_tokens
        Sum over them of the tokens whose KV is there before the step (their context, without the new token).
    prefills
        ``(new_tokens, context_tokens)`` per prefill chunk; context is what was computed or found cached before.
    decode_kv_max, decode_kv_min
        Extremes of the decodes' context; only kept up when the step model's ``needs`` has ``"kv_extremes"``, else 0.
    draw
        A number that no other step of any instance has, to draw random numbers by; only given when ``needs`` has
        ``"draw"``, else 0.
    decode_prompts
        Prompt lengths of the decodes in running order; only given when ``needs`` has ``"decode_prompts"`` (a step then
        costs as much as it has decodes), else empty.
    """

    num_decodes: int
    decode_kv_tokens: int
    prefills: tuple[tuple[int, int], ...] = ()
    decode_kv_max: int = 0
    decode_kv_min: int = 0
    draw: int = 0
    decode_prompts: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return self.num_decodes + sum(new for new, _ in self.prefills)

    @property
    def num_sequences(self) -> int:
        """Requests in the step; vLLM V1 computes logits for each, unfinished prefills included."""
        return self.num_decodes + len(self.prefills)


def grown_by(shape: StepShape, steps: int) -> StepShape:
    """Return the shape of a batch of decodes alone ``steps`` steps later."""
    return StepShape(
        shape.num_decodes,
        shape.decode_kv_tokens + shape.num_decodes * steps,
        (),
        shape.decode_kv_max + steps,
        shape.decode_kv_min + steps,
        shape.draw + steps,
        shape.decode_prompts,
    )


class StepModel(Protocol):
    """How long a step takes. Deterministic: equal shapes take equal times."""

    needs: frozenset[str]
    """Beyond counts and sums: ``"kv_extremes"``, ``"draw"``, ``"decode_prompts"``, or nothing."""

    notices: list[str]
    """What the user should know (extrapolation, a layer that is missing and why), each said once."""

    def duration_ns(self, shape: StepShape) -> int:
        """Return the whole step's time, host overhead included, rounded once to whole nanoseconds (at least 1)."""
        ...

    def decode_run_ns(self, shape: StepShape, max_steps: int, limit_ns: int) -> Sequence[int]:
        """Return the durations of consecutive decode-only steps, the first with ``shape`` (which has no prefills).

        In each further step every decode's context is one token longer. The run ends after ``max_steps`` steps, or
        after the first step at which the sum of durations reaches ``limit_ns``. Equal, to the nanosecond, to calling
        ``duration_ns`` step by step.
        """
        ...

    def breakdown_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the step's time by part (operator, collective, host), in nanoseconds, before rounding."""
        ...


class StepModelBase:
    """Helps to write a step model: only ``breakdown_ns`` (or ``duration_ns``) has to be given."""

    needs: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.notices: list[str] = []

    def breakdown_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the step's time by part, in nanoseconds."""
        raise NotImplementedError

    def duration_ns(self, shape: StepShape) -> int:
        """Return the sum of the parts in whole nanoseconds."""
        return max(1, round(sum(self.breakdown_ns(shape).values())))

    def decode_run_ns(self, shape: StepShape, max_steps: int, limit_ns: int) -> Sequence[int]:
        """Step one by one: always correct; models override it to be faster."""
        durations: list[int] = []
        total = 0
        for i in range(max_steps):
            grown = grown_by(shape, i)
            duration = self.duration_ns(grown)
            durations.append(duration)
            total += duration
            if total >= limit_ns:
                break
        return durations


step_models: Registry[StepModel] = Registry("step model")
