"""A measured profile in memory: what each operator of a model takes on one accelerator of a tensor-parallel group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from servetwin.step.host import NO_HOST_OVERHEAD, HostOverhead

Counts = NDArray[np.int64]
Times = NDArray[np.float64]

TokenPadding = Literal["none", "cuda_graph", "power_of_two"]


@dataclass(frozen=True, slots=True)
class Curve:
    """Times of one layer over ``counts`` (tokens or sequences, ascending, distinct), each of shape ``(n,)``."""

    counts: Counts
    time_ns: Times


@dataclass(frozen=True, slots=True, eq=False)
class JointAttention:
    """Attention measured as one kernel call, one prefill chunk beside decodes of equal length: columns of ``(n,)``.

    ``kv_prefill`` and ``kv_decode`` are tokens whose KV was there before the step (the chunk itself not among them).
    """

    prefill_chunk: Counts
    kv_prefill: Counts
    num_decodes: Counts
    kv_decode: Counts
    time_ns: Times


@dataclass(frozen=True, slots=True)
class Grid:
    """Times over two axes, complete: ``time_ns[i, j]`` belongs to ``first[i]`` and ``second[j]``, both ascending."""

    first: Counts
    second: Counts
    time_ns: Times


@dataclass(frozen=True, slots=True, eq=False)
class AdditiveAttention:
    """The sum of two tables: ``prefill`` over (context, chunk), ``decode`` over (decodes, mean context).

    ``context_tile``: kernels read a decode's context in whole tiles of so many tokens, and the table's contexts are
    whole tiles (1: single tokens).
    """

    prefill: Grid
    decode: Grid
    context_tile: int = 1


@dataclass(frozen=True, slots=True)
class Bins:
    """Intervals ``(edges[i], edges[i+1]]`` with a label each; what lies above belongs to the last."""

    edges: tuple[float, ...]
    labels: tuple[str, ...]

    def label(self, value: float) -> str:
        """Return the label of ``value``'s interval."""
        for i in range(len(self.labels) - 1):
            if value <= self.edges[i + 1]:
                return self.labels[i]
        return self.labels[-1]


@dataclass(frozen=True, slots=True)
class SkewTable:
    """How much of the step from equal to longest context a batch of unequal contexts pays (LLMServingSim's fit).

    ``alpha`` is found by (chunk, label of n, of the skew rate, of the longest context, of the prefill's context).
    """

    n: Bins
    skew_rate: Bins
    kv_max: Bins
    kv_prefill: Bins
    alpha: Mapping[tuple[int, str, str, str, str], float]
    default: float


@dataclass(frozen=True, slots=True)
class SerialRead:
    """From ``from_decodes`` decodes on, one thread block reads each sequence's KV (of one head) from end to end.

    It takes ``ns_per_token``, however idle the rest of the accelerator is; below, kernels split a sequence.
    """

    from_decodes: int
    ns_per_token: float


@dataclass(frozen=True, slots=True, eq=False)
class ExpertBlock:
    """The whole block of routed experts on one accelerator, undivided: router, experts, sum; columns of ``(n,)``.

    ``tokens`` pass the block, each to the model's ``top_k`` experts; ``activated`` distinct experts have tokens.
    """

    tokens: Counts
    activated: Counts
    time_ns: Times


@dataclass(frozen=True, slots=True, eq=False)
class SingleExpert:
    """Routed experts measured one by one, each whole at every degree.

    ``router`` over a step's tokens, ``expert`` (its three matrices) over the tokens of one expert, ``activation`` over
    all (token, expert) pairs.
    """

    router: Curve
    expert: Curve
    activation: Curve


@dataclass(frozen=True, slots=True)
class Profile:
    """One model on one kind of accelerator at one tensor-parallel degree; times per layer, in nanoseconds.

    Attributes
    ----------
    dense
        Time over the step's tokens, by layer.
    per_sequence
        Time over the step's sequences, by layer.
    experts
        Routed experts, which stand in place of a dense MLP; None for a dense model.
    skew
        How LLMServingSim corrects a batch of unequal contexts.
    serial
        What decides how long such a batch takes on the device; None where it was not measured.
    token_padding
        How the server pads a step's tokens before it computes layers over tokens.
    host
        What the host adds to a step where nothing else is said.
    gaps_included
        Whether the times hold the gaps between kernels, in which the host starts the next one; then a collective costs
        the way of its data alone.
    source
        The folder that it was read from.
    not_measured
        Layers that the tables leave out on purpose, with the reason; they take no time.
    notices
        What a reader of results should know beyond that.
    """

    hardware: str
    model: str
    tensor_parallel_size: int
    dense: Mapping[str, Curve]
    per_sequence: Mapping[str, Curve]
    attention: JointAttention | AdditiveAttention
    experts: ExpertBlock | SingleExpert | None = None
    skew: SkewTable | None = None
    serial: SerialRead | None = None
    token_padding: TokenPadding = "none"
    host: HostOverhead = NO_HOST_OVERHEAD
    gaps_included: bool = False
    source: str = ""
    not_measured: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = field(default=())
