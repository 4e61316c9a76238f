"""What can be set about a profile's step model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from servetwin.core.errors import InputError
from servetwin.core.units import NS_PER_S
from servetwin.step.host import HostOverhead

VLLM_HOST_OVERHEAD = HostOverhead(per_step_us=600.0, per_request_us=0.0)
"""Gaps between kernels, sampling and input preparation that vLLM does not hide, fitted to one run of vLLM 0.19
(Llama-3.1-8B on an RTX PRO 6000); another run (Qwen3-32B on two) agrees."""

EAGER_US_PER_LAYER = 125.0
"""A step with a prefill chunk is not replayed as one CUDA graph: its attention is launched layer by layer. From the
time to first token of single requests in the same run (about 4 ms of 32 layers, whatever the chunk's size)."""

Interpolation = Literal["default", "lss"]
Skew = Literal["longest", "lss", "none"]
Padding = Literal["auto", "none", "cuda_graph", "power_of_two"]
ParallelismRules = Literal["vllm", "lss"]
All2AllBackend = Literal["allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency"]
ALL2ALL_BACKENDS: tuple[All2AllBackend, ...] = get_args(All2AllBackend)


@dataclass(frozen=True, slots=True)
class HostIo:
    """Token ids that a step loads from host memory, and sampled ones that it stores there (LLMServingSim).

    Each access takes ``latency_ns`` + bytes / bandwidth, in whole nanoseconds.
    """

    bandwidth_bytes_per_s: float
    latency_ns: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bandwidth_bytes_per_s) and self.bandwidth_bytes_per_s > 0):
            raise InputError(f"host memory's bandwidth must be above 0 bytes/s, got {self.bandwidth_bytes_per_s!r}")
        if not (math.isfinite(self.latency_ns) and self.latency_ns >= 0):
            raise InputError(f"host memory's latency must be at least 0 ns, got {self.latency_ns!r}")

    def access_ns(self, num_bytes: int) -> int:
        """Return the time of one access."""
        return math.floor(self.latency_ns + num_bytes / self.bandwidth_bytes_per_s * NS_PER_S)


@dataclass(frozen=True, slots=True)
class ExpertSizes:
    """Sizes of a layer's routed experts: how many, how many a token visits, and one expert's matrices."""

    num_experts: int
    top_k: int
    hidden_size: int
    intermediate_size: int


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What the tables do not say of the model: how often a block is repeated, and what a token's row takes.

    Attributes
    ----------
    experts
        Of a mixture of experts, whose blocks are all alike; None for a dense model.
    window
        Tokens that attention reaches back in every layer; None: all. Contexts are cut to it: exact while none is
        longer, else an upper bound (the sum of the contexts is cut, not each).
    kv_read_ns_per_token
        Least time in which one rank's memory delivers one token's KV of one layer; 0: not known.
    """

    num_layers: int
    hidden_size: int
    bytes_per_element: int = 2
    experts: ExpertSizes | None = None
    window: int | None = None
    kv_read_ns_per_token: float = 0.0


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """How the tables are read; the defaults are ours, `LSS_OPTIONS` mirror LLMServingSim.

    Attributes
    ----------
    interpolation
        ``"default"``: monotone, linear in tokens read, physical beyond the grid. ``"lss"``: as LLMServingSim.
    skew
        How a batch of unequal contexts differs from one of equal contexts with the same sum. ``"longest"``: bounded by
        the longest sequence (`LongestRead`). ``"lss"``: by LLMServingSim's fitted table. ``"none"``: not.
    merge_prefills
        Whether several chunks are looked up as one (sum of tokens, sum of contexts). LLMServingSim's reading of two
        tables has its own rule (root of the sum of squares) and keeps it.
    token_padding
        ``"auto"``: as the profile says; ``"none"``; ``"cuda_graph"`` (sizes that vLLM captures); ``"power_of_two"``
        (vLLM on TPU).
    eager_us_per_layer
        Time per layer of a step with a chunk in a server with CUDA graphs, see `EAGER_US_PER_LAYER`.
    parallelism
        How ranks share routed experts (`VllmExperts`, `LssExperts`) and what a pipeline stage sends to the next: as
        vLLM, or as LLMServingSim.
    all2all_backend
        How tokens reach the experts of other data-parallel ranks, by vLLM's names.
    """

    interpolation: Interpolation = "default"
    skew: Skew = "longest"
    merge_prefills: bool = False
    token_padding: Padding = "auto"
    eager_us_per_layer: float = EAGER_US_PER_LAYER
    parallelism: ParallelismRules = "vllm"
    all2all_backend: All2AllBackend = "allgather_reducescatter"


DEFAULT_OPTIONS = ProfileOptions()
LSS_OPTIONS = ProfileOptions(
    "lss", "lss", merge_prefills=True, token_padding="none", eager_us_per_layer=0.0, parallelism="lss"
)
