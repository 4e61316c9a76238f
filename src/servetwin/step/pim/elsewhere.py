"""Times of operator classes away from the accelerator: in memory that computes, and on the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from servetwin.core.units import NS_PER_S
from servetwin.hardware.base import Device
from servetwin.hardware.pim import PimDevice
from servetwin.llm.operators import AttentionKernel, Collective, Elementwise, Gemm, GroupedGemm, RankOperator
from servetwin.step.base import StepModel, StepShape
from servetwin.step.operators import counts, work_of_step
from servetwin.step.pim.placement import OperatorClass, operator_class


class Crossing:
    """What it takes to move activations to another place and results back.

    Each operator counts by itself, also where its neighbour is in the same place: an upper bound.

    Parameters
    ----------
    ops
        Operators of one rank.
    bytes_per_s, latency_ns
        Of the way, for one rank.
    """

    def __init__(self, ops: Sequence[RankOperator], bytes_per_s: float, latency_ns: float) -> None:
        self._ops = ops
        self._byte_ns = NS_PER_S / bytes_per_s
        self._latency_ns = latency_ns

    def time_ns(self, name: OperatorClass, shape: StepShape) -> float:
        """Return the time of a class's crossings in a step."""
        applied = counts(shape)
        total = 0.0
        for op in operators_of(self._ops, name):
            rows = _attending(name, shape) if isinstance(op, AttentionKernel) else applied[op.applies_to]
            if rows:
                total += op.count * (2 * self._latency_ns + _activation_bytes(op, rows) * self._byte_ns)
        return total


def operators_of(ops: Sequence[RankOperator], name: OperatorClass) -> Iterator[RankOperator]:
    """Yield the operators of a class, collectives left out; attention that serves both phases is in both."""
    for op in ops:
        if isinstance(op, Collective):
            continue
        if isinstance(op, AttentionKernel):
            if (name == "attention_decode" and op.phase != "prefill") or (
                name == "attention_prefill" and op.phase != "decode"
            ):
                yield op
        elif operator_class(op.name) == name:
            yield op


def _attending(name: OperatorClass, shape: StepShape) -> int:
    return shape.num_decodes if name == "attention_decode" else sum(new for new, _ in shape.prefills)


def _activation_bytes(op: RankOperator, rows: float) -> float:
    if isinstance(op, AttentionKernel):
        return rows * (op.bytes_per_query + op.kv_bytes_per_token)
    if isinstance(op, GroupedGemm):
        return op.rows(rows) * (op.n + op.k) * op.activation_bytes
    if isinstance(op, Gemm | Elementwise):
        return op.bytes_read(rows) - op.weight_bytes + op.bytes_written(rows)
    return 0.0


def weight_bytes(ops: Sequence[RankOperator], name: OperatorClass) -> float:
    """Return the bytes of weights of a class on one rank."""
    return sum(
        op.count * op.weight_bytes for op in operators_of(ops, name) if isinstance(op, Gemm | GroupedGemm | Elementwise)
    )


class InMemory:
    """Any class of operators in memory: never faster than its banks deliver or its multipliers compute.

    Decode attention has a closed form of its own (`ClosedFormAttention`).
    """

    def __init__(self, device: PimDevice, count: int, ops: Sequence[RankOperator], ranks: int) -> None:
        self._ops = ops
        self._bytes_per_s = device.internal_bytes_per_s * count / ranks
        self._flops = device.flops_per_channel * device.channels * count / ranks
        self._command_ns = device.command_ns
        self._crossing = Crossing(ops, device.link_bytes_per_s * count / ranks, device.link_latency_ns)

    def time_ns(self, name: OperatorClass, shape: StepShape) -> float:
        """Return the time of a class in a step, crossings included."""
        total = 0.0
        for op in operators_of(self._ops, name):
            work = work_of_step([op], shape)
            work_of = work.get(name) if isinstance(op, AttentionKernel) else work.get(op.name)
            if work_of is not None and work_of.num_bytes:
                bound_s = max(work_of.num_bytes / self._bytes_per_s, work_of.flops / self._flops)
                total += bound_s * NS_PER_S + op.count * self._command_ns
        return total + self._crossing.time_ns(name, shape) if total else 0.0


class OnHost:
    """Any class of operators on the host's processor, by a step model of it, over the accelerator's link to its host.

    Parameters
    ----------
    model
        The same model on the host.
    link
        The accelerator; its PCIe link is the way.
    latency_ns
        Of one crossing.
    """

    def __init__(self, model: StepModel, accelerator: Device, ops: Sequence[RankOperator], latency_ns: float) -> None:
        way = accelerator.pcie or accelerator.scale_up
        self._model = model
        self._crossing = Crossing(ops, way.bandwidth_bytes_per_s if way else 32e9, latency_ns)

    def time_ns(self, name: OperatorClass, shape: StepShape) -> float:
        """Return the time of a class in a step, crossings included."""
        total = sum(part for key, part in self._model.breakdown_ns(shape).items() if operator_class(key) == name)
        return total + self._crossing.time_ns(name, shape) if total else 0.0
