"""What limits a step on the roofline: its time by resource."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from servetwin.core.units import NS_PER_US
from servetwin.llm.operators import AttentionKernel, Collective, Elementwise, Gemm, GroupedGemm
from servetwin.step.base import StepShape
from servetwin.step.operators import Work, counts

if TYPE_CHECKING:
    from servetwin.step.roofline import RooflineStepModel

BOUNDS = (
    "compute",
    "weights' bandwidth",
    "KV bandwidth",
    "activations' bandwidth",
    "kernel launches",
    "network",
    "host",
)


def bounds_ns(model: RooflineStepModel, shape: StepShape) -> Mapping[str, float]:
    """Return the step's time by what limits it, see `RooflineStepModel.bounds_ns`."""
    bounds = dict.fromkeys(BOUNDS, 0.0)
    parts, works = dict(model.breakdown_ns(shape)), model.work(shape)
    bounds["host"] = parts.pop("host")
    bounds["activations' bandwidth"] = parts.pop("sampler")
    bounds["kernel launches"] = parts.pop("attention_launch") + parts.pop("launches")
    for name in ("attention_decode", "attention_prefill"):
        bounds["compute" if _computes(model, works[name]) else "KV bandwidth"] += parts.pop(name)
    for name in ("all_reduce", "dispatch", "combine"):
        bounds["network"] += parts.pop(name, 0.0)
    for op in model.operators:
        if op.name not in parts or isinstance(op, AttentionKernel):
            continue
        time_ns = parts.pop(op.name)
        if isinstance(op, Collective):
            bounds["network"] += time_ns
            continue
        work = works[op.name]
        launches_ns = min(time_ns, _fixed_ns(model, op.name)) if work.num_bytes else 0.0
        bounds["kernel launches"] += launches_ns
        bounds["compute" if _computes(model, work) else _reading(model, op.name, work, shape)] += time_ns - launches_ns
    return dict(sorted(bounds.items(), key=lambda item: -item[1]))


def _computes(model: RooflineStepModel, work: Work) -> bool:
    device = model.device
    return work.flops / device.peak(model.architecture.dtype) > work.num_bytes / device.memory_bandwidth_bytes_per_s


def _reading(model: RooflineStepModel, name: str, work: Work, shape: StepShape) -> str:
    """Return whether an operator reads weights or activations more."""
    routed = counts(shape, model.ranks)["routed_tokens"]
    weights = 0.0
    for op in model.operators:
        if op.name == name and isinstance(op, GroupedGemm):
            weights += op.count * op.active_experts(routed) * op.expert_bytes
        elif op.name == name and isinstance(op, Gemm | Elementwise):
            weights += op.count * op.weight_bytes
    return "weights' bandwidth" if weights > work.num_bytes / 2 else "activations' bandwidth"


def _fixed_ns(model: RooflineStepModel, name: str) -> float:
    """Return the fixed cost of all runs of an operator."""
    return sum(op.count * _fixed_us(model, op) for op in model.operators if op.name == name) * NS_PER_US


def _fixed_us(model: RooflineStepModel, op: object) -> float:
    if isinstance(op, GroupedGemm):
        return model.efficiency.experts_us
    if isinstance(op, Gemm):
        return model.efficiency.matrix_us if op.weights.is_plain else model.efficiency.quantized_us
    return model.efficiency.element_us
