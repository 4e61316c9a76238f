"""Third-party implementations: found through entry points, named in a scenario, their options checked."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

import servetwin
from servetwin.cluster.base import ClusterView, RequestView, routers
from servetwin.core import registry
from servetwin.core.errors import InputError
from servetwin.step.base import StepModelBase, StepShape, step_models
from servetwin.workload.base import Workload, workload_sources


class Sticky:
    """A plug-in's router: always the instance with this number."""

    reads: frozenset[str] = frozenset()

    def __init__(self, *, seed: int, number: int, mode: Literal["soft", "hard"] = "soft") -> None:
        self.number = number

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Return the number."""
        return int(candidates[self.number])


class PerLayer(StepModelBase):
    """A plug-in's step model that asks for the degree of tensor parallelism."""

    def __init__(self, tensor_parallel_size: int, layer_ns: int = 10) -> None:
        super().__init__()
        self.step_ns = layer_ns * tensor_parallel_size

    def duration_ns(self, shape: StepShape) -> int:
        """Return the constant."""
        return self.step_ns


class Burst:
    """A plug-in's workload: some requests at once."""

    def __init__(self, requests: int) -> None:
        self.requests = requests

    def build(self, seed: int) -> Workload:
        """Return the requests."""
        ones = np.ones(self.requests, dtype=np.int64)
        return Workload(ones * 0, ones * 4, ones)


class EntryPoint:
    """Stands for an installed package's entry point."""

    def __init__(self, name: str, factory: type) -> None:
        self.name = name
        self._factory = factory

    def load(self) -> type:
        """Return the plug-in."""
        return self._factory


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install three plug-ins for one test."""
    found = {
        "servetwin.router": [EntryPoint("sticky", Sticky)],
        "servetwin.step_model": [EntryPoint("per_layer", PerLayer)],
        "servetwin.workload_source": [EntryPoint("burst", Burst)],
    }
    monkeypatch.setattr(registry, "entry_points", lambda group: found.get(group, []))
    for known in (routers, step_models, workload_sources):
        monkeypatch.setattr(known, "_plugins_loaded", False)
        monkeypatch.setattr(known, "_factories", dict(known._factories))


@pytest.mark.usefixtures("plugins")
def test_plugins_are_named_in_a_scenario(small: dict[str, Any]) -> None:
    """A router, a step model and a workload of another package are found by name and given their options."""
    small["cluster"][1]["step"] = {"model": "per_layer", "layer_ns": 7}
    small |= {"router": {"policy": "sticky", "number": 2}, "workload": {"kind": "burst", "requests": 3}}
    result = servetwin.simulate(small)
    assert set(result.requests["instance"].tolist()) == {"batch-0"}
    assert result.requests["finish_s"].tolist() == [7e-9] * 3


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "router: option 'number' is missing"),
        ({"number": "2"}, "router.number: given '2': should be a whole number"),
        ({"number": 2, "mode": "softly"}, "router.mode: given 'softly': should be 'soft' or 'hard'"),
        ({"number": 2, "nubmer": 1}, "router.nubmer: unknown key 'nubmer'; did you mean 'number'?"),
    ],
)  # fmt: skip
def test_options_of_plugins_are_checked(small: dict[str, Any], options: dict[str, Any], said: str) -> None:
    """Options are checked by the constructor's type hints, as strictly as built-in ones."""
    with pytest.raises(InputError) as caught:
        servetwin.simulate(small | {"router": {"policy": "sticky", **options}})
    assert str(caught.value).startswith(said)
