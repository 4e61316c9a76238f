"""Prompts that share their beginning: system prompts, conversations, and inference-perf's fixed set of prompts."""

from __future__ import annotations

from typing import Annotated, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from servetwin.workload.delays import DelayOptions, FixedDelay
from servetwin.workload.lengths import FixedLength, LengthOptions
from servetwin.workload.limits import MAX_REQUESTS, MAX_TOKENS
from servetwin.workload.schema import Count, Options

PromptCount: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]


class SystemPromptOptions(Options):
    """``count`` system prompts; each request (or session) begins with one of them.

    The k-th is drawn with a probability proportional to 1 / k**zipf (0: all alike).
    """

    count: PromptCount = 1
    tokens: LengthOptions
    zipf: Annotated[float, Field(ge=0, le=10)] = 0.0

    def choose(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the number of the system prompt of each of ``n`` requests."""
        edges: NDArray[np.float64] = np.cumsum(1.0 / np.arange(1, self.count + 1, dtype=np.float64) ** self.zipf)
        chosen = np.searchsorted(edges, rng.random(n) * float(edges[-1]), side="right")
        return np.minimum(chosen, self.count - 1, dtype=np.int64)


class SessionOptions(Options):
    """Conversations: the prompt of a turn is everything before it, and ``prompt_tokens`` of new text.

    Attributes
    ----------
    count
        How many sessions; None where the arrivals say it.
    turns
        Turns per session.
    think_s
        From the end of a turn to the arrival of the next.
    max_tokens
        A session ends before the turn whose prompt + output would be longer; its first turn is always there.
    """

    count: Count | None = None
    turns: LengthOptions
    think_s: DelayOptions = FixedDelay(seconds=0.0)
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None


class SharedPrefixOptions(Options):
    """A fixed set of prompts that is sent over and over, as inference-perf's ``shared_prefix`` data generator does.

    There are ``num_groups`` system prompts with ``num_prompts_per_group`` questions each. All these prompts are
    shuffled once; request i sends prompt i modulo their number, and asks for that prompt's output length. The keys and
    defaults are inference-perf's.
    """

    num_groups: PromptCount = 10
    num_prompts_per_group: PromptCount = 10
    system_prompt_len: LengthOptions = FixedLength(tokens=100)
    question_len: LengthOptions = FixedLength(tokens=50)
    output_len: LengthOptions = FixedLength(tokens=50)

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        if (prompts := self.num_groups * self.num_prompts_per_group) > MAX_REQUESTS:
            raise ValueError(f"num_groups x num_prompts_per_group is {prompts}; allowed: up to {MAX_REQUESTS}")
        return self
