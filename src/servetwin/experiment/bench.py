"""How fast the twin is: requests and steps per CPU second, peak memory, growth; ``make bench``.

Every case runs in a process of its own, so that its peak memory is its own. Speeds depend on the machine: the first
line measures a plain Python heap of 1,000 tuples, and ``scaled`` gives each figure on a machine where that heap does
1.8 million pop+push per second.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REFERENCE_HEAP_PER_S = 1_800_000
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
        }


def cases(profile: str | None, *, quick: bool) -> list[Case]:
    """Return what is measured; ``quick`` is the small part that runs in CI."""
    if quick:
        return [Case("one instance, 20,000 requests", 20_000), Case("32 instances, 20,000 requests", 20_000, 32)]
    found = [
        Case("1,000,000 requests, 32 instances", 1_000_000, 32, target=1_000_000 / 25),
        Case("100,000 requests, roofline", 100_000, target=60_000),
        Case("100,000 requests, prefix caching", 100_000, prefix_caching=True, target=10_000),
        Case("10,000 requests, one instance", 10_000, repeats=10, growth="requests"),
        Case("1,000,000 requests, one instance", 1_000_000, growth="requests"),
    ]
    if profile:
        found.append(Case("100,000 requests, measured profile", 100_000, profile=profile, rate_per_s=25, target=25_000))
    found += group_cases()
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


def heap_per_s() -> float:
    """Return pop+push per CPU second of a heap of 1,000 tuples: the yardstick of the machine."""
    draw = random.Random(1)
    heap = [(draw.random(), i) for i in range(1000)]
    heapq.heapify(heap)
    gaps = [draw.random() for _ in range(300_000)]
    started = time.process_time()
    for i, gap in enumerate(gaps):
        first = heapq.heappop(heap)
        heapq.heappush(heap, (first[0] + gap, i))
    return len(gaps) / (time.process_time() - started)


def measure(case: Case) -> dict[str, Any]:
    """Run one case in this process and return its figures."""
    import servetwin

    warm_up = case.scenario()
    warm_up["workload"]["requests"] = 50
    servetwin.simulate(warm_up)
    heap = heap_per_s()
    steps = 0
    started = time.process_time()
    for seed in range(1, case.repeats + 1):
        steps += servetwin.simulate(case.scenario(seed)).summary["steps"]
    cpu_s = time.process_time() - started
    requests = case.requests * case.repeats
    heap = (heap + heap_per_s()) / 2
    scale = REFERENCE_HEAP_PER_S / heap
    return {
        "name": case.name,
        "requests": requests,
        "instances": case.instances,
        "steps": steps,
        "cpu_s": cpu_s,
        "requests_per_cpu_s": requests / cpu_s,
        "steps_per_cpu_s": steps / cpu_s,
        "scaled_requests_per_cpu_s": requests / cpu_s * scale,
        "scaled_steps_per_cpu_s": steps / cpu_s * scale,
        "target_steps_per_cpu_s": case.steps_target,
        "target_requests_per_cpu_s": case.target,
        "growth": case.growth,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "heap_per_s": heap,
    }


def measure_apart(case_number: int, arguments: Sequence[str]) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [sys.executable, "-m", "servetwin.experiment.bench", *arguments, "--case", str(case_number)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        raise RuntimeError(f"case {case_number} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def line(figures: dict[str, Any], first: dict[str, Any] | None) -> str:
    """Return one case's figures for a reader; ``first`` is the case with which its cost is compared."""
    target = figures["target_requests_per_cpu_s"]
    verdict = ""
    if first is not None:
        cost = first["requests_per_cpu_s"] / figures["requests_per_cpu_s"]
        verdict = f"  cost per request {cost:.2f} x the first's"
    if target:
        verdict = f"  target {target:,.0f}: {'met' if figures['scaled_requests_per_cpu_s'] >= target else 'MISSED'}"
    steps_target = figures["target_steps_per_cpu_s"]
    if steps_target:
        scaled = figures["scaled_steps_per_cpu_s"]
        reached = "met" if scaled >= steps_target else "MISSED"
        verdict = f"  {scaled:,.0f} scaled steps/s, target {steps_target:,.0f}: {reached}"
    return (
        f"{figures['name']:40s} {figures['requests_per_cpu_s']:9,.0f} requests/s {figures['steps_per_cpu_s']:9,.0f} "
        f"steps/s  {figures['cpu_s']:7.2f} CPU s {figures['peak_memory_mb']:5,.0f} MB  "
        f"scaled {figures['scaled_requests_per_cpu_s']:9,.0f} requests/s{verdict}"
    )


def _profile_folder() -> str | None:
    """Return the measured profile that the reference data holds, if it is there."""
    shared = Path(os.environ.get("SERVETWIN_SHARED", "../shared"))
    folder = shared / "reference/llmservingsim/profiles-v1/RTXPRO6000/meta-llama/Llama-3.1-8B/bf16"
    return str(folder.resolve()) if folder.is_dir() else None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all cases, print them and write them to ``bench-results/bench.json``."""
    parser = argparse.ArgumentParser(prog="python -m servetwin.experiment.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only a small part")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench-results/bench.json"))
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    todo = cases(_profile_folder(), quick=options.quick)
    if options.case is not None:
        print(json.dumps(measure(todo[options.case])))
        return 0
    print(f"heap of 1,000 tuples: {heap_per_s() / 1e6:.2f} M pop+push per CPU second (reference: 1.80)")
    arguments = ["--quick"] if options.quick else []
    results: list[dict[str, Any]] = []
    firsts: dict[str, dict[str, Any]] = {}
    for number, case in enumerate(todo):
        if options.only in case.name:
            results.append(measure_apart(number, arguments))
            first = firsts.setdefault(case.growth, results[-1]) if case.growth else None
            print(line(results[-1], None if first is results[-1] else first), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
