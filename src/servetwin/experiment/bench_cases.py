"""What the bench measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROFILE = "reference/llmservingsim/profiles-v1/RTXPRO6000/meta-llama/Llama-3.1-8B/bf16"
"""A measured profile, in the reference data."""

NEAR_SATURATION_PER_S = 56.0
"""Arrivals per second and instance: 96 % of what one H100 serves of these requests with the roofline (58.5).

With the measured profile of an RTX PRO 6000 it is 25 (of 26.0)."""

ROUTERS = (
    "round_robin",
    "random",
    "power_of_two",
    "least_outstanding",
    "load",
    "least_kv",
    "session_affinity",
    "prefix_aware",
)


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes
    ----------
    target
        Least scaled requests per CPU second that are asked for, 0 where the figure is only reported.
    steps_target
        The same for scaled steps; those of each rank of a lockstep group count.
    engine, experts
        Further settings of the engine, and of the routing of experts.
    profile
        Folder of a measured profile, or None for the roofline.
    repeats
        How often it is run, with other seeds, so that short cases take long enough to be timed.
    growth
        Cases of one growth are compared with its first: cost per request, relative.
    changes
        Parts of the scenario that stand in place of those that the other attributes give.
    check_invariants
        Whether all invariants are checked after every event.
    """

    name: str
    requests: int
    instances: int = 1
    router: str = "least_outstanding"
    prefix_caching: bool = False
    profile: str | None = None
    rate_per_s: float = NEAR_SATURATION_PER_S
    target: float = 0.0
    steps_target: float = 0.0
    model: str = "meta-llama/Llama-3.1-8B"
    engine: Mapping[str, Any] = field(default_factory=dict)
    experts: Mapping[str, Any] = field(default_factory=dict)
    repeats: int = 1
    growth: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    check_invariants: bool = False

    @property
    def ranks(self) -> int:
        """Instances that requests are spread over."""
        return self.instances * int(self.engine.get("data_parallel_size", 1))

    def scenario(self, seed: int = 1) -> dict[str, Any]:
        """Return the case as a scenario."""
        step: dict[str, Any] = {"model": "profile", "path": self.profile} if self.profile else {"model": "roofline"}
        if self.experts:
            step["experts"] = dict(self.experts)
        device = "RTXPRO6000" if self.profile else "H100-SXM"
        return {
            "seed": seed,
            "model": self.model,
            "cluster": [
                {
                    "name": "chat",
                    "replicas": self.instances,
                    "hardware": {"device": device},
                    "engine": {
                        "max_num_seqs": 256,
                        "max_num_batched_tokens": 2048,
                        "enable_prefix_caching": self.prefix_caching,
                        **self.engine,
                    },
                    "step": step,
                }
            ],
            "router": {"policy": self.router},
            "workload": {
                "kind": "synthetic",
                "requests": self.requests,
                "arrivals": {"kind": "poisson", "rate_per_s": self.rate_per_s * self.ranks},
                "prompt_tokens": {"kind": "lognormal", "mean": 220, "sigma": 1.0},
                "output_tokens": {"kind": "lognormal", "mean": 200, "sigma": 0.8},
            },
            **self.changes,
        }


def cases(shared: Path | None, *, quick: bool) -> list[Case]:
    """Return what is measured; ``quick`` is the small part that runs in CI.

    Parameters
    ----------
    shared
        The reference data; None: without the cases that read it.
    """
    if quick:
        return [Case("one instance, 20,000 requests", 20_000), Case("32 instances, 20,000 requests", 20_000, 32)]
    found = [
        Case("1,000,000 requests, 32 instances", 1_000_000, 32, target=1_000_000 / 25),
        Case("100,000 requests, roofline", 100_000, target=60_000, growth="power"),
        Case("100,000 requests, roofline and power", 100_000, growth="power", changes={"power": {}}),
        Case("100,000 requests, prefix caching", 100_000, prefix_caching=True, target=10_000),
        Case("10,000 requests, one instance", 10_000, repeats=10, growth="requests"),
        Case("1,000,000 requests, one instance", 1_000_000, growth="requests"),
    ]
    if shared:
        profile = str(shared / PROFILE)
        found.append(Case("100,000 requests, measured profile", 100_000, profile=profile, rate_per_s=25, target=25_000))
        found += trace_cases(shared / "traces")
    found += group_cases() + disaggregated_cases()
    for router in ROUTERS:
        for instances, repeats in ((1, 50), (32, 2), (1024, 1)):
            name = f"{router}, {instances:,} x 1,000 requests"
            found.append(Case(name, 1_000 * instances, instances, router, repeats=repeats, growth=router))
    return found


WIDE = {"data_parallel_size": 32, "enable_expert_parallel": True, "gpu_memory_utilization": 0.95}
"""32 attention ranks that share all experts; DeepSeek-V3 in FP8 leaves an H100 room for KV."""


def group_cases() -> list[Case]:
    """Return the cases of lockstep groups."""
    deepseek: dict[str, Any] = {"model": "deepseek-ai/DeepSeek-V3", "engine": WIDE, "rate_per_s": 2.0}
    return [
        Case(
            f"lockstep, 32 ranks, {routing['routing']} experts",
            10_000,
            steps_target=20_000,
            experts=routing,
            **deepseek,
        )
        for routing in ({"routing": "balanced"}, {"routing": "zipf"})
    ] + [
        Case("1,024 accelerators, 100,000 requests", 100_000, 32, target=100_000 / 60, **deepseek),
    ]


def disaggregated_cases() -> list[Case]:
    """Return 16 instances for prompts and 48 for outputs, without and with all invariants checked."""
    pools = [
        {
            "name": role,
            "role": role,
            "replicas": replicas,
            "hardware": {"device": "H100-SXM"},
            "engine": {"max_num_seqs": 256, "max_num_batched_tokens": 2048},
        }
        for role, replicas in (("prefill", 16), ("decode", 48))
    ]
    changes = {"cluster": pools, "disaggregation": {"connector": "nixl", "router": "least_outstanding"}}
    return [
        Case(
            f"16 prefill + 48 decode{', invariants checked' if checked else ''}",
            200_000,
            rate_per_s=1_000,
            target=200_000 / 60,
            changes=changes,
            check_invariants=checked,
        )
        for checked in (False, True)
    ]


def trace_cases(traces: Path) -> list[Case]:
    """Return recorded prompts on eight instances with three tiers below their devices."""
    levels = [
        {"kind": "host", "capacity_gb": 100},
        {"kind": "ssd", "capacity_gb": 1000},
        {"kind": "remote", "capacity_gb": 10000, "shared": "cluster"},
    ]
    workloads: dict[str, tuple[float, dict[str, Any]]] = {
        "mooncake": (5_000, {"path": str(traces / "mooncake" / "conversation_trace.jsonl.gz"), "sessions_per_s": 8}),
        "claude_code": (1_000, {"path": str(traces / "claude-code" / "sessions.tar.xz"), "sessions_per_s": 0.05}),
    }
    return [
        Case(
            f"{kind}, 8 instances, three tiers",
            0,
            8,
            prefix_caching=True,
            target=target,
            changes={"workload": {"kind": kind, **options}, "tiers": {"chunk_tokens": 512, "levels": levels}},
        )
        for kind, (target, options) in workloads.items()
    ]
