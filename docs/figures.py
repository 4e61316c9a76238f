"""Prints the figures that pages of docs/ quote and no test or `make accuracy` shows: `python docs/figures.py`.

Each section names its page. Run it from the repository's root after a change of step models, and mend the pages.
"""

from __future__ import annotations

import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

import servetwin
from servetwin.scenario.load import load_scenario
from servetwin.scenario.workload_field import build_workload

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name: str) -> dict[str, Any]:
    """Return an example's scenario."""
    found: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    return found


def heading(page: str, what: str) -> None:
    """Print where the next figures stand."""
    print(f"\ndocs/{page}: {what}")


def pim_interleaving() -> None:
    """Print mean TPOT of an L40S beside each kind of memory that computes."""
    heading("pim.md", "mean TPOT in ms, L40S, Llama-3.1-8B, 300 requests, 3/s of 3,000 + 300 tokens")
    base = example("pim.yaml")
    with_pim, alone = base["cluster"]
    lengths = {"prompt_tokens": 3000, "output_tokens": 300}
    base["workload"] |= {"requests": 300, "arrivals": {"kind": "poisson", "rate_per_s": 3}, **lengths}
    print(f"  alone {tpot_ms(base | {'cluster': [alone]}):.1f}")
    for device, count in (("HBM-PIM", 12), ("GDDR6-AiM", 32), ("LPDDR5-PIM", 4), ("CXL-PNM", 1)):
        for interleaving in ("off", "auto"):
            pool = deepcopy(with_pim)
            pool["step"] |= {"pim": {"device": device, "count": count}, "interleaving": interleaving}
            print(f"  {count} x {device}, {interleaving}: {tpot_ms(base | {'cluster': [pool]}):.1f}")


def tpot_ms(scenario: dict[str, Any]) -> float:
    """Return the mean time per output token."""
    return float(servetwin.simulate(scenario).summary["tpot_s"]["mean"]) * 1e3


def pim_decode_side() -> None:
    """Print what a decode side with and without memory that computes reaches."""
    heading("pim.md", "decode sides of examples/pim_decode.yaml: TTFT, TPOT (ms), J per output token")
    for replicas in (2, 1):
        for kind in ("L40S + AiM", "L40S"):
            scenario = example("pim_decode.yaml")
            outputs = scenario["cluster"][1]
            outputs["replicas"] = replicas
            if kind == "L40S":
                del outputs["step"]
            summary = servetwin.simulate(scenario).summary
            joules = summary["energy"]["j_per_output_token"]
            times = [summary[name]["mean"] * 1e3 for name in ("ttft_s", "tpot_s")]
            print(f"  {replicas} x ({kind}): {times[0]:,.0f} {times[1]:.1f} {joules:.2f}")


def shared_links() -> None:
    """Print what sharing PCIe links between all-reduces and KV costs."""
    heading("disaggregation.md", "examples/shared_links.yaml, shared and apart: transfer, prefill, TTFT (ms)")
    for port in (None, {"bandwidth_gb_per_s": 25, "latency_us": 10}):
        scenario = example("shared_links.yaml")
        if port:
            scenario["disaggregation"]["port"] = port
        summary = servetwin.simulate(scenario).summary
        parts = [summary["breakdown_s"][name] * 1e3 for name in ("transfer_s", "prefill_s")]
        print(f"  {parts[0]:.1f} {parts[1]:.0f} {summary['ttft_s']['mean'] * 1e3:.0f}")


def trace_reading(traces: Path) -> None:
    """Print how fast recorded traces are read."""
    heading("workloads.md", "requests read per CPU second")
    for kind, path in (
        ("mooncake", traces / "mooncake" / "conversation_trace.jsonl.gz"),
        ("claude_code", traces / "claude-code" / "sessions.tar.xz"),
    ):
        if not path.exists():
            print(f"  {kind}: {path} is not there")
            continue
        scenario = {"cluster": [{"name": "any"}], "workload": {"kind": kind, "path": str(path), "sessions_per_s": 1.0}}
        started = time.process_time()
        workload = build_workload(load_scenario(scenario).scenario.workload, 0, Path())
        print(f"  {kind}: {len(workload) / (time.process_time() - started):,.0f}")


def main() -> int:
    """Print all figures."""
    pim_interleaving()
    pim_decode_side()
    shared_links()
    trace_reading(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/traces"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
