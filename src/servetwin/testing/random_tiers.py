"""Random small scenarios with KV tiers of tiny chunks, private and shared, on plain instances, groups and pipelines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from servetwin.cluster.base import InstanceSpec, routers
from servetwin.memory.tiers import TierDevice, TierSpec, TiersSpec, evictions
from servetwin.testing.random_disaggregation import random_disaggregated_scenario
from servetwin.testing.random_groups import random_group_scenario
from servetwin.testing.random_scenarios import RandomScenario, random_contents, random_scenario

KINDS = ("host", "cxl", "ssd", "remote")


def random_tiered_scenario(seed: int) -> RandomScenario:
    """Return the random scenario with tiers number ``seed``."""
    rng = np.random.default_rng([seed, 3])
    kind = str(rng.choice(["plain", "plain", "grouped", "disaggregated"]))
    make = {"grouped": random_group_scenario, "disaggregated": random_disaggregated_scenario}.get(kind, random_scenario)
    scenario = make(int(rng.integers(2**40)))
    workload = scenario.workload
    lengths = workload.prompt_tokens + workload.output_tokens
    if rng.random() < 0.7:
        workload.contents = random_contents(rng, workload)
    longest = int(lengths.max()) if rng.random() < 0.7 else None
    if rng.random() < 0.25:
        scenario = replace(scenario, make_router=lambda: routers.get("tier_aware")(seed=0, min_tokens=1, imbalance=2))
    return replace(scenario, instances=_with_tiers(rng, scenario.instances, longest))


def _with_tiers(rng: np.random.Generator, specs: list[InstanceSpec], longest: int | None) -> list[InstanceSpec]:
    """Give most instances tiers; those of one block size may share some of them.

    Parameters
    ----------
    longest
        Devices have little more blocks than such a request needs; None: as many as they have.
    """
    shared: dict[int, TiersSpec] = {}
    tiered = []
    for spec in specs:
        if rng.random() < 0.15:
            tiered.append(spec)
            continue
        settings = replace(spec.settings, enable_prefix_caching=True)
        if longest is not None:
            needed = -(-longest // settings.block_size)
            settings = replace(settings, num_blocks=min(settings.num_blocks, needed + int(rng.integers(needed + 1))))
        own = _random_tiers(rng, settings.block_size)
        common = shared.setdefault(settings.block_size, own)
        tiered.append(replace(spec, settings=settings, tiers=_share(rng, own, common)))
    return tiered


def _share(rng: np.random.Generator, own: TiersSpec, common: TiersSpec) -> TiersSpec:
    """Return an instance's tiers, of which some, or only devices, are those of others."""
    how = rng.random()
    if how < 0.4:
        return common
    if how < 0.6 and own is not common and own.chunk_tokens == common.chunk_tokens:
        devices = (*own.devices, common.devices[-1] if rng.random() < 0.5 else own.devices[0])
        return replace(own, tiers=(*own.tiers, common.tiers[-1]), devices=devices)
    if how < 0.7:
        return replace(own, devices=(common.devices[0],) * len(own.tiers))
    return own


def _random_tiers(rng: np.random.Generator, block_size: int) -> TiersSpec:
    chunk_tokens = block_size * int(rng.choice([1, 1, 2, 3]))
    tiers, devices = [], []
    for number in range(int(rng.choice([1, 1, 2, 3]))):
        devices.append(
            TierDevice(
                latency_ns=int(rng.choice([0, 0, 5, 300])),
                bytes_per_s=None if rng.random() < 0.2 else 1e9 / float(rng.choice([1, 10, 100])),
                copies=int(rng.choice([1, 1, 1, 3])),
            )
        )
        tiers.append(
            TierSpec(
                name=f"tier {number}",
                kind=str(rng.choice(KINDS)),
                capacity_chunks=None if rng.random() < 0.2 + 0.4 * number else int(rng.choice([1, 3, 8, 30, 100])),
                chunk_bytes=chunk_tokens,
                lookup_ns=int(rng.choice([0, 0, 1, 40])),
                eviction=str(rng.choice(evictions.names())),
            )
        )
    return TiersSpec(
        tiers=tuple(tiers),
        devices=tuple(devices),
        chunk_tokens=chunk_tokens,
        write="back" if rng.random() < 0.4 else "through",
        saves="all" if rng.random() < 0.5 else "prompt",
        preempted="swap" if rng.random() < 0.4 else "recompute",
        load="async" if rng.random() < 0.4 else "blocking",
        instant_writes=bool(rng.random() < 0.4),
        promote=bool(rng.random() < 0.7),
    )
