"""Random small scenarios with encoders before plain instances, groups, prefill and decode pools, and KV tiers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from servetwin.cluster.base import Disaggregation, EncoderPool
from servetwin.cluster.embeddings import encoder_names
from servetwin.cluster.kv_transfers import KvPort, KvTransfers
from servetwin.core.units import NS_PER_S, NS_PER_US
from servetwin.step.encoder_time import MeasuredEncoder
from servetwin.testing.random_disaggregation import random_disaggregated_scenario
from servetwin.testing.random_groups import random_group_scenario
from servetwin.testing.random_link_times import random_link_times
from servetwin.testing.random_scenarios import RandomScenario, random_scenario
from servetwin.testing.random_tiers import random_tiered_scenario

KINDS = {
    "plain": random_scenario,
    "grouped": random_group_scenario,
    "apart": random_disaggregated_scenario,
    "apart, one network": random_disaggregated_scenario,
    "tiered": random_tiered_scenario,
}


def random_encoder_scenario(seed: int) -> RandomScenario:
    """Return the random scenario with encoders number ``seed``."""
    rng = np.random.default_rng([seed, 4])
    kind = str(rng.choice(["plain", "grouped", "apart", "apart, one network", "apart, one network", "tiered"]))
    scenario = KINDS[kind](int(rng.integers(2**40)))
    workload = scenario.workload
    n = len(workload)
    workload.encoder_tokens = rng.integers(0, workload.prompt_tokens + 1) * (rng.random(n) < rng.choice([0.3, 0.7, 1]))
    pool = _random_pool(rng, len(scenario.instances))
    scenario = replace(scenario, encoders=pool)
    if kind == "apart, one network":
        return replace(scenario, make_disaggregation=_with_ports(rng, scenario, pool))
    return scenario


def _random_pool(rng: np.random.Generator, instances: int) -> EncoderPool:
    per_s = NS_PER_S / float(rng.choice([0.3, 1, 10, 100]))
    return EncoderPool(
        workers=int(rng.choice([1, 1, 2, 3])),
        time=MeasuredEncoder(*(float(rng.choice([0, 1, 7, 300])) / NS_PER_US for _ in range(3))),
        max_batch_requests=int(rng.choice([1, 2, 8])),
        bytes_per_token=float(rng.choice([0.2, 1, 3.5])),
        bandwidth_bytes_per_s=per_s,
        latency_ns=int(rng.choice([0, 0, 1, 40, 900])),
        cap_bytes_per_s=None if rng.random() < 0.7 else per_s / 2,
        instance_bytes_per_s=() if rng.random() < 0.3 else (per_s * rng.choice([0.5, 1, 4], size=instances)).tolist(),
    )


def _with_ports(
    rng: np.random.Generator, scenario: RandomScenario, pool: EncoderPool
) -> Callable[[], Disaggregation | None]:
    """Return the scenario's way from prefill to decode over a network in which the encoders have ports."""
    per_s = NS_PER_S / int(rng.choice([1, 10, 100]))
    latency_ns = int(rng.choice([0, 1, 50, 2000]))
    by_layer = bool(rng.random() < 0.3)
    ports = [KvPort(f"pool-{i}", per_s * (1 + i % 3), 1 + i % 2, 2) for i in range(len(scenario.instances))]
    ports += [KvPort(name, pool.bandwidth_bytes_per_s, 0, latency_ns=7) for name in encoder_names(pool.workers)]

    shares = random_link_times(rng, scenario.instances) if rng.random() < 0.5 else ()

    def make() -> Disaggregation | None:
        how = scenario.make_disaggregation()
        transfers = KvTransfers(ports, latency_ns, message_tokens=4, by_layer=by_layer, link_times=shares)
        return how and replace(how, transfers=transfers)

    return make
