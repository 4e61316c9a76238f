"""Conformance of expert routings and placements, built in or third-party. Needs pytest and Hypothesis."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servetwin.step.experts.base import ExpertLoad, ExpertPlacement, ExpertRouting, LayerLoads
from servetwin.step.experts.placements import TablePlacement

NUM_EXPERTS, TOP_K, NUM_LAYERS, NUM_RANKS = 12, 3, 5, 4
"""The model and group for which `ExpertRoutingConformance.make` makes a routing."""

_inherited = settings(suppress_health_check=[HealthCheck.differing_executors], deadline=None, max_examples=40)


def total(loads: list[LayerLoads]) -> float:
    """Return the pairs of all layers and ranks that tokens asked for: computed or dropped, padding left out."""
    return sum(layers * float(load.pairs.sum() + load.dropped_pairs - load.padding_pairs) for layers, load in loads)


class ExpertRoutingConformance:
    """Inherit from this, give ``make``, and pytest runs the tests."""

    conserves_pairs = True
    """Whether pairs add up to tokens x top_k; only false for formulas of others that are mirrored."""

    def make(self, placement: ExpertPlacement, seed: int) -> ExpertRouting:
        """Return the routing under test, for `NUM_EXPERTS`, `TOP_K` and `NUM_LAYERS`."""
        raise NotImplementedError

    @_inherited
    @given(
        tokens=st.integers(0, 90),
        first=st.integers(0, NUM_LAYERS - 1),
        layers=st.integers(1, NUM_LAYERS),
        draw=st.integers(0, 2**62),
        held=st.permutations(range(NUM_EXPERTS)),
    )
    def test_loads_are_possible_and_add_up(
        self, tokens: int, first: int, layers: int, draw: int, held: list[int]
    ) -> None:
        """All layers are there, pairs add up, and no rank has more tokens or experts than there are."""
        layers = min(layers, NUM_LAYERS - first)
        size = NUM_EXPERTS // NUM_RANKS
        placement = TablePlacement([held[r * size : (r + 1) * size] for r in range(NUM_RANKS)], NUM_EXPERTS)
        loads = list(self.make(placement, 1).loads(tokens, first, layers, draw))
        assert sum(group.num_layers for group in loads) == layers
        if self.conserves_pairs:
            np.testing.assert_allclose(total(loads), tokens * TOP_K * layers, rtol=1e-9, atol=1e-9)
        for _, load in loads:
            _check_load(load, tokens, size)

    @_inherited
    @given(tokens=st.integers(0, 90), draws=st.lists(st.integers(0, 2**62), min_size=2, max_size=4))
    def test_it_repeats_itself(self, tokens: int, draws: list[int]) -> None:
        """A step's loads follow from its number alone; without ``"draw"`` in ``needs``, not even from that."""
        one, other = self.make(_neighbours(), 1), self.make(_neighbours(), 1)
        backwards = {draw: other.loads(tokens, 0, NUM_LAYERS, draw) for draw in reversed(draws)}
        for draw in draws:
            assert_same(one.loads(tokens, 0, NUM_LAYERS, draw), backwards[draw])
            if "draw" not in one.needs:
                assert_same(one.loads(tokens, 0, NUM_LAYERS, draw), backwards[draws[0]])

    def test_needs_is_known(self) -> None:
        """A routing needs a step's number, or nothing."""
        assert self.make(_neighbours(), 1).needs <= {"draw"}


class ExpertPlacementConformance:
    """Inherit from this, give ``make``, and pytest runs the tests."""

    def make(self) -> ExpertPlacement:
        """Return the placement under test, for `NUM_EXPERTS` on `NUM_RANKS`."""
        raise NotImplementedError

    def test_every_expert_is_computed_once(self) -> None:
        """The shares of an expert sum to 1, none is negative, and a rank that computes an expert holds it."""
        placement = self.make()
        assert placement.share.shape == (NUM_RANKS, NUM_EXPERTS) == (placement.num_ranks, placement.num_experts)
        assert (placement.share >= 0).all()
        np.testing.assert_allclose(placement.share.sum(axis=0), 1.0)
        assert ((placement.share > 0).sum(axis=1) <= placement.slots).all()
        assert placement.slots.sum() >= NUM_EXPERTS


def assert_same(one: object, other: object) -> None:
    """Raise unless two answers of a routing are equal to the last bit."""
    assert _plain(one) == _plain(other)


def _plain(loads: object) -> list[tuple[object, ...]]:
    return [
        (layers, *(column.tolist() for column in (load.tokens, load.pairs, load.experts)), load.dropped_pairs)
        for layers, load in loads  # type: ignore[attr-defined]
    ]


def _neighbours() -> TablePlacement:
    return TablePlacement([part.tolist() for part in np.array_split(np.arange(NUM_EXPERTS), NUM_RANKS)], NUM_EXPERTS)


def _check_load(load: ExpertLoad, tokens: int, held: int) -> None:
    for column in (load.tokens, load.pairs, load.experts):
        assert column.shape == (NUM_RANKS,)
        assert (column >= 0).all()
    assert (load.tokens <= tokens + 1e-9).all()
    assert (load.experts <= held + 1e-9).all()
    assert 0 <= load.dropped_pairs <= tokens * TOP_K
    assert load.padding_pairs >= -1e-9
