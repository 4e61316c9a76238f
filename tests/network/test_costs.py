"""Coefficients of links: files, bounds, protocols."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from servetwin.core.errors import InputError
from servetwin.network.costs import FOLDER, CollectiveCosts, link_costs, read_costs
from servetwin.network.links import LINK_CLASSES
from servetwin.network.presets import link_level


def _document(**changes: object) -> dict[str, Any]:
    values: dict[str, object] = {item.name: item.metadata["low"] for item in fields(CollectiveCosts)}
    return {"source": ["a table"], "coefficients": {**values, **changes}}


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.yaml"))])
def test_files(name: str) -> None:
    """Every file is in bounds, and its protocols go from cheap steps at little bandwidth to much bandwidth."""
    costs = link_costs(name)
    assert costs.ll_efficiency < costs.ll128_efficiency < costs.simple_efficiency
    assert costs.ll_step_ns < costs.ll128_step_ns
    assert costs.protocols[2][0] > costs.protocols[0][0]


def test_bad_files() -> None:
    """A coefficient that is missing, out of bounds or misspelt is an error with what is allowed."""
    assert read_costs(_document(), where="x").start_ns == 0
    with pytest.raises(InputError, match=r"x: ll_efficiency must be from 0\.01 to 0\.5 share, got 0\.6"):
        read_costs(_document(ll_efficiency=0.6), where="x")
    with pytest.raises(InputError, match="did you mean 'start_ns'"):
        read_costs(_document(start_n=1), where="x")
    with pytest.raises(InputError, match="start_ns is missing"):
        read_costs(_document(start_ns=None), where="x")
    with pytest.raises(InputError, match="did you mean 'nvlink4'"):
        link_costs("nvlink44")


@pytest.mark.parametrize("name", LINK_CLASSES)
def test_levels_of_all_classes(name: str) -> None:
    """Every class of link makes a level, with its own bandwidth unless another is given."""
    assert link_level(name, 8).bandwidth_bytes_per_s == LINK_CLASSES[name].link.bandwidth_bytes_per_s
    assert link_level(name, 8, 5e9).bandwidth_bytes_per_s == 5e9
