"""KV capacity against the blocks that two vLLM servers found: fitted on one card, judged on the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from servetwin.calibrate.case import CaseResult, Check, percent_check
from servetwin.core.units import GIB
from servetwin.hardware.catalogue import load_device
from servetwin.llm.catalogue import load_model
from servetwin.memory import Coefficients, KvCapacity, ProfilingStep, kv_capacity

TARGET_PERCENT = 2.0
MODEL = "meta-llama/Llama-3.1-8B"
MIB = 2**20

LOGGED = Coefficients(library_bytes=30 * MIB, graph_residue_bytes=195 * MIB)
"""Both coefficients from vLLM's own logs alone: 0.03 GiB without graphs in the profiling step, 0.22 GiB with."""


@dataclass(frozen=True)
class Server:
    """One measured server (Llama-3.1-8B in bf16, block size 16, utilisation 0.9)."""

    device: str
    step: ProfilingStep
    blocks: int

    def capacity(self, coefficients: Coefficients) -> KvCapacity:
        """Return what we work out for it."""
        device = load_device(self.device)
        return kv_capacity(load_model(MODEL), device, step=self.step, coefficients=coefficients)


RTX4090 = Server("RTX4090", ProfilingStep(2048, 256, version="0.19"), 2_588)
RTXA6000 = Server("RTXA6000", ProfilingStep(2048, 256, 2048, version="0.13", enforce_eager=True), 13_844)


def fit(server: Server, name: str) -> Coefficients:
    """Return `LOGGED` with the coefficient ``name``, from 0 to 1 GiB, by which ``server`` gets its measured blocks."""
    capacity = server.capacity(LOGGED)
    excess = (capacity.num_blocks - server.blocks) * capacity.block_bytes
    value = getattr(LOGGED, name) + excess
    return replace(LOGGED, **{name: min(max(value, 0), GIB)})


def kv_capacity_cases(reference: Path | None = None) -> list[CaseResult]:
    """Return both servers judged with the coefficient fitted on the other, with logged ones, and with the defaults.

    The figures are short enough to stand here: ``reference`` is not read.
    """
    few = replace(RTXA6000, step=replace(RTXA6000.step, max_num_seqs=128))
    fits: list[tuple[str, Callable[[], Coefficients], tuple[Server, ...], str]] = [
        ("nothing fitted to either card", lambda: LOGGED, (RTX4090, RTXA6000), ""),
        (
            "library_bytes fitted on the RTX A6000, judged on the RTX 4090",
            lambda: fit(RTXA6000, "library_bytes"),
            (RTX4090,),
            "",
        ),
        (
            "graph_residue_bytes fitted on the RTX 4090, judged on the RTX A6000",
            lambda: fit(RTX4090, "graph_residue_bytes"),
            (RTXA6000,),
            "",
        ),
        ("the defaults", Coefficients, (RTX4090, RTXA6000), _few_remark(few)),
    ]
    return [_case(title, make(), servers, remark) for title, make, servers, remark in fits]


def _case(title: str, coefficients: Coefficients, servers: tuple[Server, ...], remark: str) -> CaseResult:
    values = (
        f"library_bytes {coefficients.library_bytes / MIB:.0f} MiB, "
        f"graph_residue_bytes {coefficients.graph_residue_bytes / MIB:.0f} MiB."
    )
    checks = [_check(server, coefficients) for server in servers]
    return CaseResult(f"KV blocks of Llama-3.1-8B, {title}", checks, [values, *([remark] if remark else [])])


def _check(server: Server, coefficients: Coefficients) -> Check:
    blocks = server.capacity(coefficients).num_blocks
    title = f"{server.device}, vLLM {server.step.version}"
    return percent_check(title, "KV blocks", "", server.blocks, blocks, TARGET_PERCENT)


def _few_remark(few: Server) -> str:
    error = (few.capacity(Coefficients()).num_blocks / few.blocks - 1) * 100
    return (
        "Sorting the logits of 256 sequences takes 1.16 GiB in vLLM 0.13 (PyTorch 2.9), more than the A6000 had left "
        f"beside weights and KV; with 128 sequences the error is {error:+.2f} %, so that server probably ran with 128."
    )
