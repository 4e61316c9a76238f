"""What a deployment costs: rented by the hour, or bought and fed; per million tokens, and per class of requests.

Accelerators are paid for from time 0 to the end of the run, used or not. The sum is shared among prompts and outputs by
the accelerator-seconds of their steps (each step by tokens).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import SimulationOutcome
from servetwin.energy.model import Energy
from servetwin.energy.pool import last_ns
from servetwin.energy.usage import accelerator_seconds

Floats = NDArray[np.float64]

HOURS_PER_YEAR = 8760.0
JOULES_PER_KWH = 3.6e6
MILLION = 1e6
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Owned:
    """Bought hardware: price of one accelerator with its share of the node, written off evenly over its life.

    ``used_share``: part of its life in which it serves at all.
    """

    price: float
    lifetime_years: float
    used_share: float = 1.0

    @property
    def per_hour(self) -> float:
        """What an hour of use writes off."""
        return self.price / (self.lifetime_years * HOURS_PER_YEAR * self.used_share)


@dataclass(frozen=True, slots=True)
class PoolPrice:
    """What one pool costs.

    Attributes
    ----------
    accelerators, instances
        Of one instance, and how many instances.
    per_hour
        Of one accelerator: the rent, or what is written off.
    pays_energy
        Whether energy comes on top.
    """

    accelerators: int
    instances: int
    per_hour: float
    pays_energy: bool = False


@dataclass(frozen=True, slots=True)
class RequestClass:
    """Requests by lengths, model or priority; a bound that is None does not count. The first that fits is taken."""

    name: str
    min_prompt_tokens: int = 0
    max_prompt_tokens: int | None = None
    min_output_tokens: int = 0
    max_output_tokens: int | None = None
    model: str | None = None
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class CostModel:
    """Prices, in one currency.

    Attributes
    ----------
    pools
        By name.
    energy_per_kwh
        For pools that pay for it.
    """

    pools: Mapping[str, PoolPrice]
    energy_per_kwh: float = 0.0
    currency: str = "USD"
    classes: Sequence[RequestClass] = ()

    def measure(self, outcome: SimulationOutcome, energy: Energy | None) -> dict[str, Any]:
        """Return the part ``cost`` of the summary."""
        hours = last_ns(outcome) / 3.6e12
        pools = {name: self._pool(name, price, hours, energy) for name, price in self.pools.items()}
        total = sum(pool["total"] for pool in pools.values())
        accelerators = {name: price.accelerators for name, price in self.pools.items()}
        prompts, outputs = accelerator_seconds(outcome, accelerators, energy)
        used = prompts.sum() + outputs.sum()
        share = total / used if used else 0.0
        return {
            "currency": self.currency,
            "total": total,
            "per_hour": total / hours,
            "hardware": sum(pool["hardware"] for pool in pools.values()),
            "energy": sum(pool["energy"] for pool in pools.values()),
            **_per_unit(outcome, prompts * share, outputs * share, np.ones(len(prompts), dtype=bool)),
            "pools": pools,
            "classes": self._classes(outcome, prompts * share, outputs * share),
        }

    def _pool(self, name: str, price: PoolPrice, hours: float, energy: Energy | None) -> dict[str, float]:
        hardware = price.per_hour * price.accelerators * price.instances * hours
        joules = sum(energy.pool_components_j[name].values()) if energy and price.pays_energy else 0.0
        paid = joules / JOULES_PER_KWH * self.energy_per_kwh
        return {"hardware": hardware, "energy": paid, "total": hardware + paid}

    def _classes(self, outcome: SimulationOutcome, prompts: Floats, outputs: Floats) -> dict[str, Any]:
        if not self.classes:
            return {}
        left = np.ones(len(prompts), dtype=bool)
        found: dict[str, Any] = {}
        for item in self.classes:
            chosen = left & _members(outcome, item)
            left &= ~chosen
            found[item.name] = _class(outcome, prompts, outputs, chosen)
        return found | ({OTHER: _class(outcome, prompts, outputs, left)} if left.any() else {})


def _members(outcome: SimulationOutcome, item: RequestClass) -> NDArray[np.bool_]:
    workload = outcome.workload
    chosen = (workload.prompt_tokens >= item.min_prompt_tokens) & (workload.output_tokens >= item.min_output_tokens)
    for column, most in (
        (workload.prompt_tokens, item.max_prompt_tokens),
        (workload.output_tokens, item.max_output_tokens),
    ):
        if most is not None:
            chosen = chosen & (column <= most)
    if item.model is not None:
        chosen = chosen & np.array([name == item.model for name in workload.model or [None] * len(chosen)])
    if item.priority is not None:
        given = np.zeros(len(chosen), np.int64) if workload.priority is None else workload.priority
        chosen = chosen & (given == item.priority)
    return np.asarray(chosen, dtype=bool)


def _class(outcome: SimulationOutcome, prompts: Floats, outputs: Floats, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    total = float(prompts[chosen].sum() + outputs[chosen].sum())
    return {"requests": int(chosen.sum()), "total": total, **_per_unit(outcome, prompts, outputs, chosen)}


def _per_unit(
    outcome: SimulationOutcome, prompts: Floats, outputs: Floats, chosen: NDArray[np.bool_]
) -> dict[str, float | None]:
    """Return what a million tokens and a request cost; None where there are none. Finished first tokens count."""
    served = chosen & (np.asarray(outcome.requests.first_token_ns) >= 0)
    input_tokens = float(outcome.workload.prompt_tokens[served].sum())
    output_tokens = float(outcome.workload.output_tokens[served].sum())
    of_prompts, of_outputs = float(prompts[chosen].sum()), float(outputs[chosen].sum())
    return {
        "per_million_input_tokens": _ratio(of_prompts * MILLION, input_tokens),
        "per_million_output_tokens": _ratio(of_outputs * MILLION, output_tokens),
        "per_million_tokens": _ratio((of_prompts + of_outputs) * MILLION, input_tokens + output_tokens),
        "per_request": _ratio(of_prompts + of_outputs, float(served.sum())),
    }


def _ratio(value: float, by: float) -> float | None:
    return value / by if by else None
