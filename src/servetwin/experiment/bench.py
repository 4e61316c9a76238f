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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from servetwin.experiment.bench_cases import Case, cases

REFERENCE_HEAP_PER_S = 1_800_000


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

    warm_up = replace(case, requests=50, changes={} if "workload" in case.changes else case.changes)
    servetwin.simulate(warm_up.scenario())
    heap = heap_per_s()
    steps = requests = 0
    started = time.process_time()
    for seed in range(1, case.repeats + 1):
        summary = servetwin.simulate(case.scenario(seed), check_invariants=case.check_invariants).summary
        steps += summary["steps"]
        requests += summary["requests"]["total"]
    cpu_s = time.process_time() - started
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
        verdict += f"  target {target:,.0f}: {'met' if figures['scaled_requests_per_cpu_s'] >= target else 'MISSED'}"
    steps_target = figures["target_steps_per_cpu_s"]
    if steps_target:
        scaled = figures["scaled_steps_per_cpu_s"]
        reached = "met" if scaled >= steps_target else "MISSED"
        verdict += f"  {scaled:,.0f} scaled steps/s, target {steps_target:,.0f}: {reached}"
    return (
        f"{figures['name']:40s} {figures['requests_per_cpu_s']:9,.0f} requests/s {figures['steps_per_cpu_s']:9,.0f} "
        f"steps/s  {figures['cpu_s']:7.2f} CPU s {figures['peak_memory_mb']:5,.0f} MB  "
        f"scaled {figures['scaled_requests_per_cpu_s']:9,.0f} requests/s{verdict}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all cases, print them and write them to ``bench-results/bench.json``."""
    parser = argparse.ArgumentParser(prog="python -m servetwin.experiment.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only a small part")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench-results/bench.json"))
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    shared = Path(os.environ.get("SERVETWIN_SHARED", "../shared")).resolve()
    todo = cases(shared if shared.is_dir() else None, quick=options.quick)
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
