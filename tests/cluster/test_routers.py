"""Routers: who gets a request."""

from __future__ import annotations

import numpy as np
import pytest

from servetwin.cluster import routers as _routers  # noqa: F401 (fills the registry)
from servetwin.cluster.base import ClusterView, RequestView, Router, routers
from servetwin.core.errors import InputError
from servetwin.testing.policies import RouterConformance


def view(waiting: list[int], running: list[int], kv_used: list[int] | None = None) -> ClusterView:
    """Return a view of instances with 100 KV blocks and 10 seats each."""
    w, r = np.array(waiting, dtype=np.int64), np.array(running, dtype=np.int64)
    used = np.array(kv_used or [0] * len(w), dtype=np.int64)
    return ClusterView(w, r, w + r, used, np.full(len(w), 100), np.full(len(w), 10))


def request(row: int = 0, session: str | None = None, keys: tuple[int, ...] = ()) -> RequestView:
    """Return a request as a router sees it."""
    return RequestView(row, 0, 10, session, None, 0, keys)


def everyone(seen: ClusterView) -> np.ndarray:  # type: ignore[type-arg]
    """Return all instances as candidates."""
    return np.arange(len(seen.waiting))


class TestRoundRobin(RouterConformance):
    """Conformance of round_robin."""

    def make(self, seed: int) -> Router:
        """Return it."""
        return routers.get("round_robin")(seed=seed)


class TestRandom(RouterConformance):
    """Conformance of random."""

    def make(self, seed: int) -> Router:
        """Return it."""
        return routers.get("random")(seed=seed)


class TestLeastOutstanding(RouterConformance):
    """Conformance of least_outstanding."""

    def make(self, seed: int) -> Router:
        """Return it."""
        return routers.get("least_outstanding")(seed=seed)


class TestLeastKV(RouterConformance):
    """Conformance of least_kv."""

    def make(self, seed: int) -> Router:
        """Return it."""
        return routers.get("least_kv")(seed=seed)


class TestLoad(RouterConformance):
    """Conformance of load."""

    def make(self, seed: int) -> Router:
        """Return it."""
        return routers.get("load")(seed=seed)


class TestPowerOfTwo(RouterConformance):
    """Conformance of power_of_two."""

    def make(self, seed: int) -> Router:
        """Return it."""
        return routers.get("power_of_two")(seed=seed)


class TestSessionAffinity(RouterConformance):
    """Conformance of session_affinity."""

    def make(self, seed: int) -> Router:
        """Return it."""
        return routers.get("session_affinity")(seed=seed)


class TestTierAware(RouterConformance):
    """Conformance of tier_aware, with prompts of few tokens."""

    def make(self, seed: int) -> Router:
        """Return it."""
        return routers.get("tier_aware")(seed=seed, min_tokens=1)


@pytest.mark.parametrize(
    ("held", "running", "chosen"),
    [
        ([0, 300, 500], [0, 1, 2], 2),
        ([0, 300, 200], [0, 1, 2], 1),
        ([0, 200, 200], [1, 0, 2], 1),
        ([0, 300, 900], [0, 1, 40], 1),
        ([300, 300, 0], [5, 4, 0], 1),
    ],
)
def test_tier_aware_follows_what_instances_have(held: list[int], running: list[int], chosen: int) -> None:
    """Most tokens, then least busy; too few tokens count as none, much busier ones are passed over."""
    seen, asked = view([0, 0, 0], running), request()
    asked.reusable_tokens = held.__getitem__
    assert routers.get("tier_aware")(seed=0).choose(asked, seen, everyone(seen)) == chosen


class TestPrefixAware(RouterConformance):
    """Conformance of prefix_aware."""

    def make(self, seed: int) -> Router:
        """Return it."""
        return routers.get("prefix_aware")(seed=seed)


def test_round_robin_takes_turns() -> None:
    """Each candidate in turn."""
    seen, router = view([0, 0, 0], [0, 0, 0]), routers.get("round_robin")()
    assert [router.choose(request(), seen, everyone(seen)) for _ in range(4)] == [0, 1, 2, 0]


@pytest.mark.parametrize("name", ["round_robin", "load"])
def test_turns_are_taken_separately_per_model(name: str) -> None:
    """Requests for a model that only the first instance serves do not use up the turns of others."""
    seen, router = view([0, 0], [0, 0]), routers.get(name)()
    for_anyone, for_a = RequestView(0, 0, 1, None, None, 0, ()), RequestView(1, 0, 1, None, "a", 0, ())
    chosen = []
    for _ in range(4):
        chosen.append(router.choose(for_anyone, seen, everyone(seen)))
        router.choose(for_a, seen, np.array([0]))
    assert chosen == [0, 1, 0, 1]


def test_load_weighs_waiting_four_times_and_turns_on_ties() -> None:
    """LLMServingSim's rule: (4 x waiting + running) / max_num_seqs, equals from one behind the last choice."""
    seen, router = view([1, 0, 0], [0, 3, 3]), routers.get("load")()
    assert [router.choose(request(), seen, everyone(seen)) for _ in range(3)] == [1, 2, 1]


def test_least_kv_goes_by_the_share_in_use() -> None:
    """Room counts, not the number of requests."""
    seen = view([0, 9], [0, 9], [50, 40])
    assert routers.get("least_kv")().choose(request(), seen, everyone(seen)) == 1


def test_power_of_two_never_takes_the_busiest_of_two() -> None:
    """With two candidates both are drawn, so the less loaded one is always taken."""
    seen, router = view([5, 1], [0, 0]), routers.get("power_of_two")(seed=2)
    assert {router.choose(request(), seen, everyone(seen)) for _ in range(50)} == {1}


def test_random_reaches_everyone() -> None:
    """All candidates are chosen sooner or later."""
    seen, router = view([0] * 4, [0] * 4), routers.get("random")(seed=2)
    assert {router.choose(request(), seen, everyone(seen)) for _ in range(200)} == {0, 1, 2, 3}


def test_sessions_stay_where_they_began() -> None:
    """Later turns go where the first went, however loads change."""
    router = routers.get("session_affinity")()
    first, later = view([0, 1], [0, 0]), view([9, 0], [0, 0])
    assert router.choose(request(0, "s"), first, everyone(first)) == 0
    assert router.choose(request(1, "s"), later, everyone(later)) == 0
    assert router.choose(request(2, "t"), later, everyone(later)) == 1


def test_prefix_aware_follows_the_longest_prefix_until_it_is_too_busy() -> None:
    """The instance that got the prefix before is preferred, unless it is far busier than the others."""
    router = routers.get("prefix_aware")(imbalance=4)
    idle, busy = view([0, 0], [0, 0]), view([9, 0], [0, 0])
    assert router.choose(request(0, None, (1, 2)), idle, everyone(idle)) == 0
    level = view([1, 0], [0, 0])
    assert router.choose(request(1, None, (1, 2, 3)), level, everyone(level)) == 0
    assert router.choose(request(2, None, (1, 2, 3)), busy, everyone(busy)) == 1


def test_prefix_aware_spreads_prompts_that_share_little() -> None:
    """A short common system prompt does not draw all requests to one instance."""
    router, idle = routers.get("prefix_aware")(), view([0, 0], [0, 0])
    assert router.choose(request(0, None, (1, 2, 3, 4, 5)), idle, everyone(idle)) == 0
    busier = view([1, 0], [0, 0])
    assert router.choose(request(1, None, (1, 6, 7, 8, 9)), busier, everyone(busier)) == 1


def test_an_unknown_router_names_the_nearest() -> None:
    """A typing error is answered with what was probably meant."""
    with pytest.raises(InputError, match="did you mean 'round_robin'"):
        routers.get("roundrobin")
