"""What vLLM's sizing of the KV cache depends on: the profiling step's limits and the engine's version."""

from __future__ import annotations

import re
from dataclasses import dataclass

from servetwin.core.errors import InputError

DEFAULT_VERSION = "0.19"

OLDEST = (0, 11)
"""Before it vLLM took its first snapshot before collectives were set up, and counted them and the context."""

COMBO_KERNELS = (0, 12)
TRITON_SAMPLER = (0, 17)
GRAPHS_PROFILED = (0, 18)
GRAPHS_COUNTED = (0, 20)


@dataclass(frozen=True, slots=True)
class ProfilingStep:
    """The step by which vLLM measures its peak memory when it starts, and how this version counts it.

    Attributes
    ----------
    max_num_batched_tokens, max_num_seqs
        The step computes that many tokens, and samples for that many sequences (at most as many as tokens).
    max_model_len
        Longest prompt + output; only latent attention's workspace depends on it. None: long enough not to matter.
    version
        vLLM's version, ``0.11`` or later.
    enforce_eager
        Whether the model is neither compiled nor captured in CUDA graphs.
    warm_compile_cache
        Whether this very model and these limits were compiled on the machine before. A first start leaves less for KV:
        compilation's own memory counts as a peak of the step.

    Raises
    ------
    InputError
        If the version is none, or older than 0.11.
    """

    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 256
    max_model_len: int | None = None
    version: str = DEFAULT_VERSION
    enforce_eager: bool = False
    warm_compile_cache: bool = False

    def __post_init__(self) -> None:
        if self.release < OLDEST:
            raise InputError(f"memory is known for vLLM 0.11 and later, got version {self.version}")

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version as numbers."""
        match = re.match(r"v?(\d+)\.(\d+)", self.version)
        if match is None:
            raise InputError(f"a version such as 0.19 is needed, got {self.version!r}")
        return int(match[1]), int(match[2])

    @property
    def num_sequences(self) -> int:
        """Sequences that the step samples for."""
        return min(self.max_num_seqs, self.max_num_batched_tokens)

    @property
    def compiles(self) -> bool:
        """Whether compilation runs within the measured step and benchmarks its kernels there."""
        return not (self.enforce_eager or self.warm_compile_cache) and self.release >= COMBO_KERNELS

    @property
    def sorts_logits(self) -> bool:
        """Whether top-k and top-p sort the logits with PyTorch; else a Triton kernel filters them in place."""
        return self.release < TRITON_SAMPLER or self.num_sequences < 8

    @property
    def profiles_graphs(self) -> bool:
        """Whether a few CUDA graphs are captured, and dropped, within the measured step."""
        return not self.enforce_eager and self.release >= GRAPHS_PROFILED

    @property
    def counts_graphs(self) -> bool:
        """Whether the estimated memory of CUDA graphs is taken off the KV cache."""
        return not self.enforce_eager and self.release >= GRAPHS_COUNTED
