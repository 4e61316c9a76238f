"""LLMServingSim's attention in memory: fitted coefficients, prompt lengths only (FORMATS, section 3.3)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.units import NS_PER_S
from servetwin.step.pim.base import Decodes, Floats
from servetwin.step.work_columns import StepColumns

COEFFICIENTS = {
    "LPDDR4X_2GB_4266_pim": (432.4458, 33918.1734),
    "DDR4_8GB_3200_pim": (333.2538, 30675.2739),
    "LPDDR5_2GB_6400_pim": (282.4338, 15996.7018),
    "HBM2_1GB_2000_pim": (242.0548, 14513.5015),
}
"""Nanoseconds per token of prompt, and per request; of unpublished origin (LLMServingSim's issue 44)."""

CHARGED = ("entries", "requests")


class LssPimAttention:
    """Every decode takes ``(slope * g * tokens + intercept * s) / split`` on each of ``split`` channels.

    With ``g`` a quarter of the query heads per KV head, ``s`` the query's elements over 4,096, and ``split`` the lesser
    of channels and KV heads. Decodes, longest first, go to the least loaded channel ``split`` times; each channel
    serves its own one after the other, and the slowest counts.

    Parameters
    ----------
    memory
        Name of a file of its ``configs/pim``; coefficients exist for four.
    channels, bandwidth_gb_per_s, latency_ns
        Of the whole memory; LLMServingSim cuts the last two to whole numbers.
    num_heads, num_kv_heads, head_dim, num_layers, activation_bytes
        Of the model on one rank.
    active_w
        Peak less idle power of a channel, for energy.
    kv_grows
        Whether the generated tokens count too; LLMServingSim knows the prompt only.
    idle_w
        Of all channels.
    charged
        ``entries``: a request's energy counts on each channel that works for it; ``requests``: on one only.
    """

    capacity_bytes: int | None = None

    def __init__(
        self,
        memory: str,
        channels: int,
        bandwidth_gb_per_s: float,
        latency_ns: float,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        num_layers: int,
        activation_bytes: int = 2,
        active_w: float = 0.0,
        kv_grows: bool = False,
        idle_w: float | None = None,
        charged: str = "entries",
    ) -> None:
        if memory not in COEFFICIENTS:
            raise unknown_name("memory with coefficients of LLMServingSim", memory, COEFFICIENTS, where="pim.device")
        if channels < 1:
            raise InputError(f"must be at least 1, got {channels!r}", where="pim.channels")
        if charged not in CHARGED:
            raise unknown_name("way to charge energy", charged, CHARGED, where="pim.charged")
        slope, intercept = COEFFICIENTS[memory]
        self.needs = frozenset({"decode_prompts"})
        self._split = min(channels, num_kv_heads)
        self._channels = channels
        self._token_ns = slope * (num_heads / num_kv_heads / 4) / self._split
        self._request_ns = intercept * (num_heads * head_dim / 4096) / self._split
        self._layers = num_layers
        self._active_w = active_w
        self._kv_grows = kv_grows
        self._charged = charged
        self.idle_w = idle_w
        there = (num_heads + 2 * num_kv_heads) * head_dim * activation_bytes
        back = num_heads * head_dim * activation_bytes
        self.io_bytes_per_request = there + back
        self._io_ns = int(latency_ns) + int((there + back) / self._split / int(bandwidth_gb_per_s))
        self._busiest = lru_cache(maxsize=4096)(self._of_lengths)

    def step_ns(self, decodes: Decodes) -> float:
        """See `PimAttention`."""
        return float(self._layers * self._busiest(self._lengths(decodes))) if decodes.num else 0.0

    def prompts_ns(self, prefills: Sequence[tuple[int, int]]) -> float:
        """Return 0: LLMServingSim moves no keys and values of prompts."""
        return 0.0

    def steps_j(self, steps: StepColumns) -> Floats:
        """See `PimAttention`; peak less idle power for as long as each request takes, on each of its channels.

        Times are not cut to whole nanoseconds here.
        """
        tokens = steps.decode_kv_tokens if self._kv_grows else steps.decode_prompt_tokens
        if tokens is None:
            raise ValueError("the decodes' prompts are needed")
        busy_ns = self._token_ns * tokens + self._request_ns * steps.num_decodes
        entries = self._split if self._charged == "entries" else 1
        return np.asarray(busy_ns * (entries * self._layers * self._active_w / NS_PER_S))

    def link_bytes(self, steps: StepColumns) -> Floats:
        """See `PimAttention`; LLMServingSim charges them to the DRAM."""
        return np.asarray(steps.num_decodes * float(self._layers * self.io_bytes_per_request))

    def _lengths(self, decodes: Decodes) -> tuple[int, ...]:
        if not self._kv_grows:
            return decodes.prompts
        mean = decodes.kv_tokens // decodes.num if decodes.num else 0
        return (mean,) * decodes.num

    def _entry_ns(self, tokens: int) -> int:
        return math.floor(self._token_ns * tokens + self._request_ns)

    def _of_lengths(self, lengths: tuple[int, ...]) -> int:
        """Return the time of the channel that has most to do, for one layer."""
        entries = [self._entry_ns(tokens) + self._io_ns for tokens in sorted(lengths, reverse=True)]
        if len(entries) * self._split <= self._channels:
            return entries[0]
        loads = [0] * self._channels
        for entry in entries:
            for _ in range(self._split):
                heapq.heapreplace(loads, loads[0] + entry)
        return max(loads)
