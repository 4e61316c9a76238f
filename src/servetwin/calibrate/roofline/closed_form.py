"""Steady states without a simulation: the batch follows from Little's law, the step's time from the batch, and back.

With a constant rate and lengths that are all alike, the number of decoding requests is rate x time of residence, which
is tokens x time of a step, which depends on the batch: a fixed point. It predicts means as well as a simulation does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, floor

from servetwin.core.units import NS_PER_S
from servetwin.step.base import StepModel, StepShape

ASYNCHRONOUS_WAIT_STEPS = 1.5
"""Steps from a request's arrival to the start of its own with asynchronous scheduling: half of the one that runs, and
all of the one that is planned already."""

_ROUNDS = 200
_PRECISION = 1e-6


@dataclass(frozen=True)
class SteadyLoad:
    """Requests that arrive at a constant rate, all of one length.

    Attributes
    ----------
    new_tokens, context_tokens
        Of a prompt: computed, and found in the cache.
    output_tokens
        Per request.
    """

    rate_per_s: float
    new_tokens: int
    context_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class SteadyState:
    """Means, in seconds, and the mean number of decoding requests."""

    ttft_s: float
    inter_token_s: float
    batch: float

    def e2e_s(self, output_tokens: int) -> float:
        """Return the mean time from arrival to the last token."""
        return self.ttft_s + (output_tokens - 1) * self.inter_token_s


def step_times_ns(model: StepModel, batch: float, load: SteadyLoad) -> tuple[float, float]:
    """Return the times of a step with and without one prompt beside ``batch`` decodes in the middle of their output.

    Between whole numbers of decodes times are interpolated.
    """
    context = load.context_tokens + load.new_tokens + load.output_tokens / 2
    chunk = ((load.new_tokens, load.context_tokens),)
    low = max(1, floor(batch))
    weight = min(1.0, max(0.0, batch - low))
    mixed = plain = 0.0
    for n, share in ((low, 1 - weight), (low + 1, weight)):
        if share:
            tokens = round(n * context)
            plain += share * model.duration_ns(StepShape(n, tokens))
            mixed += share * model.duration_ns(StepShape(n, tokens, chunk))
    return mixed, plain


def steady_state(model: StepModel, load: SteadyLoad, front_end_s: float, max_num_seqs: int) -> SteadyState:
    """Return the means under a steady load that the model can serve.

    Parameters
    ----------
    front_end_s
        From the client to the engine and back: HTTP, tokenisation, detokenisation, per request.
    max_num_seqs
        More do not decode at once; a load that needs more is held there (its queue would grow without end).
    """
    step_ns = step_times_ns(model, 1, load)[1]
    batch = 1.0
    for _ in range(_ROUNDS):
        batch = min(float(max_num_seqs), load.rate_per_s * load.output_tokens * step_ns / NS_PER_S)
        mixed, plain = step_times_ns(model, batch, load)
        prompts_per_step = min(1.0, load.rate_per_s * step_ns / NS_PER_S)
        next_ns = plain + prompts_per_step * (mixed - plain)
        if abs(next_ns - step_ns) < _PRECISION * step_ns:
            break
        step_ns = (step_ns + next_ns) / 2
    ttft_ns = ASYNCHRONOUS_WAIT_STEPS * step_ns + mixed
    return SteadyState(front_end_s + ttft_ns / NS_PER_S, step_ns / NS_PER_S, batch)


def saturated_step_s(
    model: StepModel, batch: float, prompt_tokens: int, output_tokens: float, max_num_batched_tokens: int
) -> tuple[float, float]:
    """Return the median gap between tokens and the mean time of a step of a server that is kept full.

    Each request that ends is replaced at once, so a step computes ``batch / output_tokens`` prompts on average, and how
    many exactly is Poisson's distribution, requests being independent.
    """
    n = max(1, round(batch))
    context = prompt_tokens + output_tokens / 2
    tokens = round(n * context)
    plain = model.duration_ns(StepShape(n, tokens)) / NS_PER_S
    chunk = min(prompt_tokens, max_num_batched_tokens)
    mixed = model.duration_ns(StepShape(n, tokens, ((chunk, 0),))) / NS_PER_S
    chunks = batch / output_tokens * prompt_tokens / chunk
    extra = mixed - plain
    return plain + _median_of_poisson(chunks) * extra, plain + chunks * extra


def _median_of_poisson(mean: float) -> int:
    """Return the median of a Poisson distribution."""
    term = total = exp(-mean)
    count = 0
    while total < 0.5:
        count += 1
        term *= mean / count
        total += term
    return count
