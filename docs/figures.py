"""Prints the figures that pages of docs/ quote and no test or `make accuracy` shows: `python docs/figures.py`.

Each section names its page. Run it from the repository's root after a change of step models, and mend the pages.
"""

from __future__ import annotations

import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import yaml

import servetwin
from servetwin.calibrate.offload_cases import CXL_RUN
from servetwin.hardware.pim import load_pim_device
from servetwin.llm.catalogue import load_model
from servetwin.llm.operators import AttentionKernel, operators
from servetwin.scenario.load import load_scenario
from servetwin.scenario.workload_field import build_workload
from servetwin.step.base import StepShape
from servetwin.step.pim.base import Decodes
from servetwin.step.pim.closed_form import ClosedFormAttention, head_group
from servetwin.step.work_columns import StepColumns

MODES: tuple[Literal["lss", "default"], ...] = ("lss", "default")

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


def pim_attention() -> None:
    """Print what attention of one decode step takes in each kind of memory that computes."""
    heading("pim.md", "Llama-3.1-8B, 64 requests of 2,000 tokens: a, c (ns), attention (ms), of bandwidth, energy (J)")
    kernels = operators(load_model("meta-llama/Llama-3.1-8B"))
    decodes = Decodes(64, 64 * 2000, 2000)
    steps = StepColumns.of_shapes([StepShape(64, 64 * 2000, (), 2000, 2000)])
    for name, count in (("HBM-PIM", 5), ("GDDR6-AiM", 32), ("LPDDR5-PIM", 16), ("CXL-PNM", 1)):
        device = load_pim_device(name)
        attention = ClosedFormAttention(device, count, kernels)
        group = head_group(device, next(op for op in kernels if isinstance(op, AttentionKernel)))
        step_s = attention.step_ns(decodes) / 1e9
        share = attention.kv_bytes(decodes) / step_s / attention.internal_bytes_per_s
        joules = float(attention.steps_j(steps)[0])
        print(
            f"  {count} x {name}: {group.fixed_ns:.0f} {group.token_ns:.1f} {step_s * 1e3:.1f} {share:.0%} {joules:.2f}"
        )


def chunk_pipelines() -> None:
    """Print when the first token of a long prompt comes over several nodes, and what dynamic chunks gain."""
    heading("disaggregation.md", "first token of 32,768 tokens in 16 chunks over 1, 2, 4, 8 nodes (s)")
    alone = first_token_s(1, 32_768, max_num_batched_tokens=2048)
    print(f"  1: {alone:.3f}")
    for nodes in (2, 4, 8):
        seconds = first_token_s(nodes, 32_768, max_num_batched_tokens=2048)
        print(f"  {nodes}: {seconds:.3f}, {seconds / alone:.3f} of one node's, {(15 + nodes) / (16 * nodes):.3f}")
    heading("disaggregation.md", "130,000 tokens: dynamic chunks, the first twice the best fixed size, sooner by")
    for nodes in (4, 8):
        sizes = (1024, 1536, 2048, 3072, 4096, 6144)
        fixed = {size: first_token_s(nodes, 130_000, max_num_batched_tokens=size) for size in sizes}
        best = min(fixed, key=lambda size: fixed[size])
        for factor in (0.75, 1.0):
            dynamic = {"enable_dynamic_chunking": True, "dynamic_chunking_smooth_factor": factor}
            seconds = first_token_s(nodes, 130_000, max_num_batched_tokens=2 * best, **dynamic)
            print(f"  {nodes} nodes, best {best}, factor {factor}: {1 - seconds / fixed[best]:.1%}")


def first_token_s(nodes: int, prompt_tokens: int, **engine: Any) -> float:
    """Return when the first token of a lone prompt comes that nodes of eight H100 compute as a pipeline."""
    degrees = {"tensor_parallel_size": 8, "pipeline_parallel_size": nodes, "max_num_seqs": 8}
    scenario = {
        "model": "meta-llama/Llama-3.1-70B",
        "cluster": [
            {
                "name": "nodes",
                "hardware": {"device": "H100-SXM", "topology": {"preset": "hgx_h100", "nodes": nodes}},
                "engine": degrees | engine,
            }
        ],
        "workload": {
            "kind": "synthetic",
            "requests": 1,
            "arrivals": {"kind": "constant", "rate_per_s": 1},
            "prompt_tokens": prompt_tokens,
            "output_tokens": 2,
        },
    }
    return float(servetwin.simulate(scenario).summary["ttft_s"]["mean"])


def placement_modes(reference: Path) -> None:
    """Print the time per token of LLMServingSim's weights in CXL memory, in both modes."""
    heading("offload.md", "mean TPOT of LLMServingSim's CXL example, mode lss and default (ms)")
    if not reference.exists():
        print(f"  {reference} is not there")
        return
    print("  " + " ".join(f"{CXL_RUN.simulate(reference, mode).summary['tpot_s']['mean'] * 1e3:.0f}" for mode in MODES))


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
    pim_attention()
    shared_links()
    chunk_pipelines()
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared")
    placement_modes(shared / "reference")
    trace_reading(shared / "traces")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
