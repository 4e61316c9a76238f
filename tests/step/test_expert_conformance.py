"""Built-in expert routings and placements keep their contracts."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servetwin.step.experts.base import ExpertPlacement, ExpertRouting, expert_placements, expert_routings
from servetwin.step.experts.capacity import Capacity
from servetwin.testing.expert_routings import (
    NUM_EXPERTS,
    NUM_LAYERS,
    NUM_RANKS,
    TOP_K,
    ExpertPlacementConformance,
    ExpertRoutingConformance,
)

ROUTINGS: list[tuple[str, dict[str, Any]]] = [
    ("balanced", {}),
    ("balanced", {"capacity": Capacity(multiple=8)}),
    ("round_robin", {}),
    ("uniform", {}),
    ("uniform", {"correlation": 0.7}),
    ("uniform", {"sampled": False}),
    ("uniform", {"sampled": False, "correlation": 1.0}),
    ("uniform", {"capacity": Capacity(factor=1.0, multiple=4)}),
    ("uniform", {"sampled": False, "capacity": Capacity(factor=1.25)}),
    ("zipf", {}),
    ("zipf", {"sampled": True, "distinct_layers": 2}),
    ("zipf", {"exponent": 4.0, "slowest_rank": False, "capacity": Capacity(factor=1.0, fill=True)}),
    ("lss_round_robin", {}),
    ("lss_random", {}),
    ("lss_random", {"reseed": False}),
]


def test_all_built_in_routings_are_tested() -> None:
    """None is left out of this file."""
    tested = {name for name, _ in ROUTINGS} | {"lss_balanced", "popularity", "trace"}
    assert tested == {name for name in expert_routings.names() if _is_built_in(name)}


def _is_built_in(name: str) -> bool:
    return expert_routings.get(name).__module__.startswith("servetwin.")


def make_routing(name: str, placement: ExpertPlacement, seed: int, options: dict[str, Any]) -> ExpertRouting:
    """Make a routing as a scenario does: only what its factory asks for."""
    factory = expert_routings.get(name)
    context = {"num_experts": NUM_EXPERTS, "top_k": TOP_K, "num_layers": NUM_LAYERS, "placement": placement}
    asked = inspect.signature(factory).parameters
    return factory(**{key: value for key, value in {**context, "seed": seed}.items() if key in asked}, **options)


def _suite(name: str, options: dict[str, Any]) -> type:
    def make(self: object, placement: ExpertPlacement, seed: int) -> ExpertRouting:
        return make_routing(name, placement, seed, options)

    return type(f"Test_{name}_{len(options)}", (ExpertRoutingConformance,), {"make": make})


for _number, (_name, _options) in enumerate(ROUTINGS):
    globals()[f"TestRouting{_number}"] = _suite(_name, _options)


class TestLssBalanced(ExpertRoutingConformance):
    """Its activated experts and tokens are formulas; its pairs still add up."""

    def make(self, placement: ExpertPlacement, seed: int) -> ExpertRouting:
        """Return the routing."""
        return make_routing("lss_balanced", placement, seed, {})


class TestTrace(ExpertRoutingConformance):
    """A recorded routing of 40 tokens in 7 steps."""

    @pytest.fixture(autouse=True)
    def _write(self, tmp_path: Path) -> None:
        random = np.random.default_rng(3)
        experts = np.argsort(random.random((40, NUM_LAYERS, NUM_EXPERTS)), axis=2)[..., :TOP_K]
        type(self).path = tmp_path / "trace.npz"  # type: ignore[attr-defined]
        np.savez(tmp_path / "trace.npz", experts=experts, step=np.sort(random.integers(0, 7, 40)))

    def make(self, placement: ExpertPlacement, seed: int) -> ExpertRouting:
        """Return the routing."""
        return make_routing("trace", placement, seed, {"path": self.path})  # type: ignore[attr-defined]


class TestPopularity(ExpertRoutingConformance):
    """Popularities that differ by layer."""

    @pytest.fixture(autouse=True)
    def _write(self, tmp_path: Path) -> None:
        shares = np.random.default_rng(5).dirichlet(np.full(NUM_EXPERTS, 20.0), NUM_LAYERS)
        rows = [f"{layer},{expert},{share!r}" for (layer, expert), share in np.ndenumerate(shares.astype(object))]
        type(self).path = tmp_path / "popularity.csv"  # type: ignore[attr-defined]
        (tmp_path / "popularity.csv").write_text("layer,expert,share\n" + "\n".join(rows) + "\n")

    def make(self, placement: ExpertPlacement, seed: int) -> ExpertRouting:
        """Return the routing."""
        return make_routing("popularity", placement, seed, {"path": self.path})  # type: ignore[attr-defined]


class TestLinear(ExpertPlacementConformance):
    """Neighbours together."""

    def make(self) -> ExpertPlacement:
        """Return the placement."""
        return expert_placements.get("linear")(num_experts=NUM_EXPERTS, num_ranks=NUM_RANKS)


class TestRoundRobin(ExpertPlacementConformance):
    """In turn."""

    def make(self) -> ExpertPlacement:
        """Return the placement."""
        return expert_placements.get("round_robin")(num_experts=NUM_EXPERTS, num_ranks=NUM_RANKS)


class TestLss(ExpertPlacementConformance):
    """LLMServingSim's."""

    def make(self) -> ExpertPlacement:
        """Return the placement."""
        return expert_placements.get("lss")(num_experts=NUM_EXPERTS, num_ranks=NUM_RANKS)


class TestEplb(ExpertPlacementConformance):
    """With copies, balanced for a steep popularity."""

    def make(self) -> ExpertPlacement:
        """Return the placement."""
        eplb = expert_placements.get("eplb")(num_experts=NUM_EXPERTS, num_ranks=NUM_RANKS, num_redundant_experts=4)
        balanced: ExpertPlacement = eplb.balanced(1.0 / np.arange(1, NUM_EXPERTS + 1))
        return balanced
