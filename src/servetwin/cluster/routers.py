"""Routers: which instance serves a request."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import ClusterView, RequestView, routers
from servetwin.core.random import stream

_DRAWS_AT_ONCE = 4096


class _Draws:
    """Uniform draws from one stream, made many at a time."""

    def __init__(self, seed: int, name: str) -> None:
        self._generator = stream(seed, "router", name)
        self._left: list[float] = []

    def below(self, n: int) -> int:
        """Return a number from 0 to n - 1."""
        if not self._left:
            self._left = self._generator.random(_DRAWS_AT_ONCE).tolist()
        return int(self._left.pop() * n)


def _least(scores: NDArray[np.int64], candidates: NDArray[np.int64]) -> int:
    """Return the candidate with the least score, the first of equals."""
    if len(candidates) == len(scores):
        return int(scores.argmin())
    return int(candidates[scores[candidates].argmin()])


def _contains(candidates: NDArray[np.int64], instance: int) -> bool:
    """Return whether an instance is among the candidates (which ascend)."""
    place = int(candidates.searchsorted(instance))
    return place < len(candidates) and int(candidates[place]) == instance


@routers.register("round_robin")
class RoundRobin:
    """One after the other, separately per model that is asked for."""

    reads: frozenset[str] = frozenset()

    def __init__(self, *, seed: int = 0) -> None:
        self._turns: dict[str | None, int] = {}

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Return the next candidate."""
        turn = self._turns.get(request.model, 0)
        self._turns[request.model] = turn + 1
        return int(candidates[turn % len(candidates)])


@routers.register("random")
class Random:
    """Any candidate with equal probability."""

    reads: frozenset[str] = frozenset()

    def __init__(self, *, seed: int = 0) -> None:
        self._draws = _Draws(seed, "random")

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Draw a candidate."""
        return int(candidates[self._draws.below(len(candidates))])


@routers.register("least_outstanding")
class LeastOutstanding:
    """The candidate with the fewest waiting and running requests, the first of equals."""

    reads = frozenset({"outstanding"})

    def __init__(self, *, seed: int = 0) -> None:
        pass

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Return the least loaded candidate."""
        return _least(view.outstanding, candidates)


@routers.register("least_kv")
class LeastKV:
    """The candidate with the smallest share of its KV blocks in use, then the fewest outstanding requests."""

    reads = frozenset({"kv_used_blocks", "outstanding"})

    def __init__(self, *, seed: int = 0) -> None:
        pass

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Return the candidate with most room."""
        used = view.kv_used_blocks[candidates] / view.kv_blocks[candidates]
        emptiest = candidates[used == used.min()]
        return int(emptiest[view.outstanding[emptiest].argmin()]) if len(emptiest) > 1 else int(emptiest[0])


@routers.register("load")
class Load:
    """LLMServingSim's LOAD: least (4 x waiting + running) / max_num_seqs, searched from one behind the last choice."""

    reads = frozenset({"waiting", "running"})

    def __init__(self, *, seed: int = 0) -> None:
        self._starts: dict[str | None, int] = {}

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Return the least loaded candidate; equals are served in turn."""
        load = (4 * view.waiting[candidates] + view.running[candidates]) / view.max_num_seqs[candidates]
        start = self._starts.get(request.model, 0) % len(candidates)
        behind = int(load[start:].argmin()) + start
        chosen = behind
        if start:
            before = int(load[:start].argmin())
            if load[before] < load[behind]:
                chosen = before
        self._starts[request.model] = chosen + 1
        return int(candidates[chosen])


@routers.register("power_of_two")
class PowerOfTwoChoices:
    """Two candidates drawn at random; the one with fewer outstanding requests (Mitzenmacher 2001)."""

    reads = frozenset({"outstanding"})

    def __init__(self, *, seed: int = 0) -> None:
        self._draws = _Draws(seed, "power_of_two")

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Draw two different candidates and return the less loaded."""
        n = len(candidates)
        first = self._draws.below(n)
        if n == 1:
            return int(candidates[0])
        second = (first + 1 + self._draws.below(n - 1)) % n
        a, b = int(candidates[first]), int(candidates[second])
        return b if view.outstanding[b] < view.outstanding[a] else a


@routers.register("session_affinity")
class SessionAffinity:
    """All turns of a session where its first turn went (least outstanding); requests without a session likewise."""

    reads = frozenset({"outstanding"})

    def __init__(self, *, seed: int = 0) -> None:
        self._homes: dict[str, int] = {}

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Return the session's home."""
        home = self._homes.get(request.session_id) if request.session_id is not None else None
        if home is not None and _contains(candidates, home):
            return home
        home = _least(view.outstanding, candidates)
        if request.session_id is not None:
            self._homes[request.session_id] = home
        return home


@routers.register("prefix_aware")
class PrefixAware:
    """The candidate that was last sent the longest prefix of this prompt, unless it is much busier than the least busy.

    A router without KV events: it remembers which prompt blocks it sent where, the most recent ``index_blocks`` per
    instance, and never asks the instances.

    Parameters
    ----------
    min_match
        Share of the prompt's blocks that must match; below it the least busy candidate is taken (SGLang's router has
        such a threshold, 0.5).
    imbalance
        A candidate with more than this many outstanding requests above the least is passed over.
    index_blocks
        Blocks remembered per instance.
    """

    reads = frozenset({"outstanding", "block_keys"})

    def __init__(
        self, *, seed: int = 0, min_match: float = 0.5, imbalance: int = 32, index_blocks: int = 100_000
    ) -> None:
        self._min_match = min_match
        self._imbalance = imbalance
        self._index_blocks = index_blocks
        self._sent: dict[int, OrderedDict[int, None]] = {}

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Return the candidate with the longest remembered prefix, then the fewest outstanding requests."""
        least = _least(view.outstanding, candidates)
        limit = int(view.outstanding[least]) + self._imbalance
        best, best_rank = least, (0, -int(view.outstanding[least]))
        enough = self._min_match * len(request.block_keys)
        for instance in self._holders_of_first_block(request):
            if _contains(candidates, instance) and view.outstanding[instance] <= limit:
                rank = (self._matched(instance, request), -int(view.outstanding[instance]))
                if rank[0] >= enough and rank > best_rank:
                    best, best_rank = instance, rank
        self._remember(best, request)
        return best

    def _holders_of_first_block(self, request: RequestView) -> list[int]:
        if not request.block_keys:
            return []
        first = request.block_keys[0]
        return [instance for instance, sent in self._sent.items() if first in sent]

    def _matched(self, instance: int, request: RequestView) -> int:
        sent = self._sent[instance]
        matched = 0
        for key in request.block_keys:
            if key not in sent:
                break
            matched += 1
        return matched

    def _remember(self, instance: int, request: RequestView) -> None:
        sent = self._sent.setdefault(instance, OrderedDict())
        for key in request.block_keys:
            sent[key] = None
            sent.move_to_end(key)
        while len(sent) > self._index_blocks:
            sent.popitem(last=False)


@routers.register("tier_aware")
class TierAware:
    """The candidate that has most of this prompt, on its device and in its KV tiers, unless it is much busier.

    It asks the instances what they have (as routers that follow KV events, or look up a shared store, do), so that it
    is never wrong, and the engine steps one by one.

    Parameters
    ----------
    min_tokens
        Fewer tokens than this count as none: the least busy candidate is taken.
    imbalance
        A candidate with more than this many outstanding requests above the least is passed over.
    """

    reads = frozenset({"outstanding", "reusable_tokens"})

    def __init__(self, *, seed: int = 0, min_tokens: int = 256, imbalance: int = 32) -> None:
        self._min_tokens = min_tokens
        self._imbalance = imbalance

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Return the candidate with the most reusable tokens, then the fewest outstanding requests."""
        least = _least(view.outstanding, candidates)
        limit = int(view.outstanding[least]) + self._imbalance
        best, best_rank = least, (0, -int(view.outstanding[least]))
        for instance in candidates.tolist():
            if view.outstanding[instance] <= limit:
                tokens = request.reusable_tokens(instance)
                rank = (tokens if tokens >= self._min_tokens else 0, -int(view.outstanding[instance]))
                if rank > best_rank:
                    best, best_rank = instance, rank
        return best
