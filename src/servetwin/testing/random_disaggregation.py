"""Random small scenarios in which some instances compute prompts, others outputs, and some both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from servetwin.cluster.base import Disaggregation, FrontEnd, InstanceSpec, Role, Router, Transfers, routers
from servetwin.cluster.kv_transfers import KvPort, KvTransfers
from servetwin.core.units import NS_PER_S
from servetwin.step.link_share import LinkTime
from servetwin.testing.random_groups import MOST_INSTANCES, random_group
from servetwin.testing.random_link_times import random_link_times
from servetwin.testing.random_scenarios import RandomScenario, random_instance, random_workload
from servetwin.testing.transfers import (
    ConstantTransfers,
    HurriedTransfers,
    OverlappedTransfers,
    SharedTransfers,
)


def random_disaggregated_scenario(
    seed: int, change: Callable[[list[InstanceSpec], int], list[InstanceSpec]] | None = None
) -> RandomScenario:
    """Return the random disaggregated scenario number ``seed``.

    Parameters
    ----------
    change
        Takes its instances and the longest request's tokens, and returns others in their places.
    """
    rng = np.random.default_rng([seed, 2])
    workload = random_workload(rng)
    longest = int((workload.prompt_tokens + workload.output_tokens).max())
    instances = _instances(rng, longest)
    if change is not None:
        instances = change(instances, longest)
    if all(spec.model is None for spec in instances):
        workload.model = None if rng.random() < 0.5 else workload.model
    front_end = FrontEnd(int(rng.integers(50)), int(rng.integers(50))) if rng.random() < 0.2 else None
    return RandomScenario(
        workload,
        instances,
        _make_router(rng, seed),
        int(rng.choice([0, 0, 50, 3000])),
        front_end,
        sorted(rng.integers(0, 20_000, size=int(rng.integers(0, 12))).tolist()),
        _make_disaggregation(rng, seed, instances),
    )


def _instances(rng: np.random.Generator, longest: int) -> list[InstanceSpec]:
    """Return instances of all roles in any order, some of them groups."""
    numbers = {"prefill": rng.integers(1, 4), "decode": rng.integers(1, 4), "both": rng.choice([0, 0, 1, 2])}
    roles: list[Role] = [role for role, number in numbers.items() for _ in range(number)]  # type: ignore[misc]
    rng.shuffle(roles)
    served = ["a", "b"] if rng.random() < 0.15 and min(numbers["prefill"], numbers["decode"]) > 1 else []
    pools = {role: _pool(rng, longest) for role in numbers}
    instances: list[InstanceSpec] = []
    for number, role in enumerate(roles):
        alike = pools[role] if rng.random() < 0.7 else _pool(rng, longest)
        model = served[roles[:number].count(role) % 2] if served else None
        spec = replace(alike, role=role, model=model)
        room = MOST_INSTANCES - len(instances) - (len(roles) - number - 1)
        grouped = rng.random() < 0.25
        instances += random_group(rng, spec, number, room, idle_model=False) if grouped else [spec]
    return [replace(spec, name=f"pool-{number}") for number, spec in enumerate(instances)]


def _pool(rng: np.random.Generator, longest: int) -> InstanceSpec:
    """Return an instance, more often with few blocks than with many."""
    spec = random_instance(rng, 0, longest)
    return replace(spec, settings=replace(spec.settings, async_scheduling=False))


def _make_router(rng: np.random.Generator, seed: int) -> Callable[[], Router]:
    name = str(rng.choice(sorted(routers.names())))
    return lambda: routers.get(name)(seed=seed)


def _make_disaggregation(
    rng: np.random.Generator, seed: int, instances: list[InstanceSpec]
) -> Callable[[], Disaggregation]:
    make_router = _make_router(rng, seed + 1)
    make_transfers = _make_transfers(rng, instances)
    handoff_ns = int(rng.choice([0, 0, 1, 20, 700]))
    first_token = "prefill" if rng.random() < 0.5 else "decode"
    local_prompt_tokens = int(rng.choice([0, 0, 0, 2, 10]))
    return lambda: Disaggregation(
        make_router(),
        transfers=make_transfers(),
        handoff_ns=handoff_ns,
        first_token=first_token,  # type: ignore[arg-type]
        local_prompt_tokens=local_prompt_tokens,
    )


def _make_transfers(rng: np.random.Generator, instances: list[InstanceSpec]) -> Callable[[], Transfers | None]:
    latency_ns, token_ns = int(rng.choice([0, 0, 1, 50, 2000])), int(rng.choice([0, 1, 1, 10, 100]))
    kinds: list[Callable[[], Transfers | None]] = [
        lambda: None,
        lambda: ConstantTransfers(latency_ns, token_ns),
        lambda: SharedTransfers(latency_ns, token_ns),
        lambda: HurriedTransfers(latency_ns, token_ns),
        lambda: OverlappedTransfers(latency_ns, token_ns),
        lambda: _flows(latency_ns, token_ns, instances, [None] * len(instances)),
        lambda: _flows(latency_ns, token_ns, instances, shares),
    ]
    kind = int(rng.choice([0, 1, 2, 2, 3, 4, 5, 5, 6, 6, 6]))
    shares = random_link_times(rng, instances)
    return kinds[kind]


def _flows(
    latency_ns: int, token_ns: int, instances: Sequence[InstanceSpec], shares: Sequence[LinkTime | None]
) -> Transfers:
    """Return transfers over a network whose ports differ, so that several share now this one's, now that one's."""
    per_s = NS_PER_S / max(1, token_ns)
    ports = [KvPort(spec.name, per_s * (1 + number % 3), 1 + number % 2) for number, spec in enumerate(instances)]
    fabric = per_s * 1.5 if len(instances) % 3 == 0 else None
    return KvTransfers(
        ports, latency_ns, message_tokens=4, message_ns=token_ns, link_times=shares, fabric_bytes_per_s=fabric
    )
