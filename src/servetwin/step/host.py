"""What the host adds to each step: scheduling, input preparation, sampling and output handling that nothing hides."""

from __future__ import annotations

from dataclasses import dataclass

from servetwin.core.units import NS_PER_US


@dataclass(frozen=True, slots=True)
class HostOverhead:
    """Time of a step during which the accelerator waits for the host.

    Attributes
    ----------
    per_step_us
        Once per step.
    per_request_us
        For each request in the step.
    per_1000_logits_us
        Sampling: for 1,000 logits (requests x vocabulary), beside moving them once; 0 for greedy sampling.

    The last is for step models without measurements of their own: profiles have the sampler measured.
    """

    per_step_us: float = 0.0
    per_request_us: float = 0.0
    per_1000_logits_us: float = 0.0

    def of_requests_ns(self, num_requests: int) -> float:
        """Return the overhead of a step with ``num_requests`` requests, in nanoseconds."""
        return (self.per_step_us + self.per_request_us * num_requests) * NS_PER_US


NO_HOST_OVERHEAD = HostOverhead()

HOSTS = {
    "vllm-0.15": HostOverhead(per_step_us=39.0),
    "vllm-0.19": HostOverhead(per_step_us=500.0, per_request_us=5.0),
    "mlenergy": HostOverhead(per_step_us=779.0, per_1000_logits_us=0.334),
}
"""Host overheads by server.

``vllm-0.15``: asynchronous scheduling, greedy sampling; fitted to ``reference/vllm-0.15-h100``.
``vllm-0.19``: fitted to two runs on RTX PRO 6000 with measured profiles.
``mlenergy``: an unknown version, and sampling that sorts the vocabulary; fitted to ``reference/mlenergy``.
"""

VLLM_FRONT_END_US = 7600.0
"""From an HTTP client to the engine and back, per request, beside the steps: server, tokenisation, network, streaming.

Fitted with ``vllm-0.15``. It delays a request and takes nothing from the others: these processes run beside the engine.
"""
