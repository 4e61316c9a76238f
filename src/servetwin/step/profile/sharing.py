"""How ranks share a layer's routed experts: where tokens are sent, who computes what, how results come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from servetwin.llm.parallel import Parallelism
from servetwin.network.base import Collectives
from servetwin.step.experts.base import ExpertLoad
from servetwin.step.plans.base import SharedTime
from servetwin.step.profile.expert_times import ExpertTimes
from servetwin.step.profile.lss_experts import LssBlock, LssSingle
from servetwin.step.profile.options import All2AllBackend, ExpertSizes

_TOP_K_BYTES = 8
"""Of one (token, expert) pair as it is sent along: an index of 4 bytes and a weight of 4."""


class ExpertSharing(Protocol):
    """The rule by which ranks share experts."""

    def routed_tokens(self, tokens: Sequence[int]) -> int:
        """Return how many tokens are routed, from those of each attention rank."""
        ...

    def layer(self, tokens: Sequence[int], load: ExpertLoad) -> SharedTime:
        """Return one layer's time for such a load."""
        ...


class VllmExperts:
    """As vLLM 0.19 shares them (``fused_moe/``, ``device_communicators/all2all.py``, ``config/parallel.py``).

    One replica (``data`` 1): all tensor-parallel ranks have all tokens, compute their experts, or with ``expert`` 1
    their part of each, and add up by an all-reduce.

    Several attention ranks: every token goes to the experts of all of them.

    - ``allgather_reducescatter`` (the default): an all-gather of hidden states and of each token's ``top_k`` indices
      and weights; every rank computes its experts over all gathered tokens; a reduce-scatter. Over the data-parallel
      ranks, followed by an all-reduce over the tensor-parallel ones; or, with expert and tensor parallelism
      (``use_sequence_parallel_moe``), over all, of tokens that the tensor-parallel ranks divided among them, followed
      by an all-gather over these.
    - ``deepep_high_throughput``: all-to-all, a token once to each rank that has experts for it, and back.
    - ``deepep_low_latency``: all-to-all of each (token, expert) pair, and back.

    The busiest sender or receiver decides an all-to-all.

    Parameters
    ----------
    times, sizes
        Times and sizes of the experts.
    ranks, collectives
        The rank's place, and what its group's collectives take; None for a single accelerator.
    element_bytes
        Of one activation.
    backend
        One of the three; the others need expert and data parallelism, without which the first is taken.
    check_pairs
        Told the most pairs of any rank, to say when they are far beyond the table.
    """

    def __init__(
        self,
        times: ExpertTimes,
        sizes: ExpertSizes,
        ranks: Parallelism,
        collectives: Collectives | None,
        element_bytes: int,
        backend: All2AllBackend,
        check_pairs: Callable[[float], None],
    ) -> None:
        self._times = times
        self._check_pairs = check_pairs
        self._top_k = sizes.top_k
        self._row_bytes = sizes.hidden_size * element_bytes
        self._ranks = ranks
        self._collectives = collectives
        self._backend = backend if ranks.expert > 1 and ranks.data > 1 else "allgather_reducescatter"

    def routed_tokens(self, tokens: Sequence[int]) -> int:
        """See `ExpertSharing`: those of all ranks."""
        return sum(tokens)

    def layer(self, tokens: Sequence[int], load: ExpertLoad) -> SharedTime:
        """See `ExpertSharing`."""
        slots = np.full(len(load.pairs), float(sum(tokens) * self._top_k))
        if self._backend == "deepep_high_throughput":
            slots = load.tokens * self._top_k
        elif self._backend == "deepep_low_latency":
            slots = load.pairs
        busiest = float(self._times.ranks_ns(slots, load.pairs, load.experts, self._ranks.expert_tensor).max())
        self._check_pairs(float(load.pairs.max()))
        dispatch_ns, combine_ns = self._exchange(tokens, load)
        return SharedTime(dispatch_ns, busiest, combine_ns)

    def _exchange(self, tokens: Sequence[int], load: ExpertLoad) -> tuple[float, float]:
        """Return what sending tokens to their experts takes, and bringing results back."""
        net, ranks, largest = self._collectives, self._ranks, max(tokens)
        if net is None:
            return 0.0, 0.0
        if ranks.data == 1:
            return 0.0, net.all_reduce_ns(largest * self._row_bytes, ranks.tensor)
        divided = ranks.sequence_parallel_experts
        if self._backend != "allgather_reducescatter":
            there = back = self._all_to_all_ns(net, tokens, load)
        else:
            group = (ranks.experts_group, ranks.pipeline) if divided else (ranks.data, ranks.tensor * ranks.pipeline)
            there = net.all_gather_ns(sum(tokens) * (self._row_bytes + self._top_k * _TOP_K_BYTES), *group)
            back = net.reduce_scatter_ns(sum(tokens) * self._row_bytes, *group)
        if divided:
            return there, back + self._regather_ns(net, largest)
        if ranks.expert == 1 or self._backend == "allgather_reducescatter":
            back += net.all_reduce_ns(largest * self._row_bytes, ranks.tensor)
        return there, back

    def _all_to_all_ns(self, net: Collectives, tokens: Sequence[int], load: ExpertLoad) -> float:
        """Return one all-to-all; the busiest sender or receiver decides."""
        copies = load.tokens if self._backend == "deepep_high_throughput" else load.pairs
        source = -(-max(tokens) // self._ranks.tensor)
        leaving = float(copies.sum()) * source / sum(tokens)
        rows = max(leaving, float(copies.max()))
        return net.all_to_all_ns(rows * self._row_bytes, self._ranks.experts_group, self._ranks.pipeline)

    def _regather_ns(self, net: Collectives, tokens: int) -> float:
        """Return what it takes until all tensor-parallel ranks have all of their batch's tokens again."""
        return net.all_gather_ns(tokens * self._row_bytes, self._ranks.tensor)


class LssExperts:
    """As LLMServingSim shares them: each rank's own (padded) tokens only, whatever others send.

    With ``expert`` 1 one rank computes the whole undivided block and nothing is sent, at any tensor parallelism. Else
    an all-gather of ``max(1, T // expert) x (hidden + experts)`` elements per rank, the slowest rank's block for the
    tokens that reach it, and a reduce-scatter of ``T x hidden`` elements, over the tensor-parallel ranks, and over the
    data-parallel ones where the experts are divided among more than the former.
    """

    def __init__(
        self,
        times: LssBlock | LssSingle,
        sizes: ExpertSizes,
        ranks: Parallelism,
        collectives: Collectives | None,
        element_bytes: int,
    ) -> None:
        self._times = times
        self._sizes = sizes
        self._ranks = ranks
        self._collectives = collectives
        self._element_bytes = element_bytes

    def routed_tokens(self, tokens: Sequence[int]) -> int:
        """See `ExpertSharing`: one rank's, as large as the largest."""
        return max(tokens)

    def layer(self, tokens: Sequence[int], load: ExpertLoad) -> SharedTime:
        """See `ExpertSharing`."""
        experts_ns = self._times.slowest_ns(load.tokens, load.pairs, load.experts)
        dispatch_ns, combine_ns = self._exchange(max(tokens))
        return SharedTime(dispatch_ns, experts_ns, combine_ns)

    def _exchange(self, tokens: int) -> tuple[float, float]:
        net, ranks, sizes = self._collectives, self._ranks, self._sizes
        if net is None or ranks.expert == 1:
            return 0.0, 0.0
        outer = ranks.data if ranks.expert > ranks.tensor else 1
        inner, stride = ranks.tensor, ranks.tensor * ranks.pipeline
        part = max(1, tokens // ranks.expert) * (sizes.hidden_size + sizes.num_experts) * self._element_bytes
        whole = tokens * sizes.hidden_size * self._element_bytes
        there = net.all_gather_ns(part * outer, outer, stride) + net.all_gather_ns(part * outer * inner, inner)
        back = net.reduce_scatter_ns(whole, inner) + net.reduce_scatter_ns(whole / inner, outer, stride)
        return there, back
