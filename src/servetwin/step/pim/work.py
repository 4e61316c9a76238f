"""What is left to the accelerators beside memory that computes, and what that memory takes: columns, after the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from servetwin.hardware.pim import PimDevice
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.operators import AttentionKernel, Collective, RankOperator
from servetwin.llm.parallel import ONE_RANK, Parallelism
from servetwin.step.base import StepShape
from servetwin.step.pim.base import Floats
from servetwin.step.pim.model import DIGITS, PimStepModel
from servetwin.step.pim.placement import CLASSES, OperatorClass, operator_class
from servetwin.step.work_columns import StepColumns, StepWork, WorkColumns

_ROUNDING = 1e-6


class PimWork(StepWork):
    """What steps compute on the accelerators beside memory that computes, or the host.

    Operators that run elsewhere are left out. Where two half batches take turns, weights are read twice. While the
    accelerators wait for the others they compute nothing (``WorkColumns.waiting``).

    Parameters
    ----------
    architecture, ranks, kv_cache_dtype
        As of `StepWork`.
    model
        What times the steps.
    """

    def __init__(
        self,
        architecture: ModelArchitecture,
        ranks: Parallelism,
        kv_cache_dtype: str | None,
        model: PimStepModel,
    ) -> None:
        super().__init__(architecture, ranks, kv_cache_dtype)
        here = [name for name in CLASSES if model.mapping[name] == "accelerator"]
        self.operators = tuple(_of_classes(self.operators, here))
        self._model = model

    def of(self, steps: StepColumns) -> WorkColumns:
        """Return the work of some steps."""
        turns, waiting = self._taking_turns(steps)
        work = super().of(steps)
        if turns.any():
            work = _either(turns, _twice(super().of(_half(steps))), work)
        return replace(work, waiting=waiting)

    def _taking_turns(self, steps: StepColumns) -> tuple[NDArray[np.bool_], Floats]:
        """Return in which steps halves take turns, and the share of each in which the accelerators wait."""
        n = np.maximum(steps.num_decodes, 1.0)
        rows = [steps.num_decodes, steps.decode_kv_tokens / n, steps.prefill_tokens, steps.prefill_context]
        keys, place = np.unique(np.stack([_few_digits(row) for row in rows], axis=1), axis=0, return_inverse=True)
        uses = np.array([self._use(*key) for key in keys.tolist()], dtype=np.float64).reshape(-1, 2)[place.ravel()]
        return uses[:, 0] > 0, uses[:, 1]

    def _use(self, decodes: int, mean: int, new: int, context: int) -> tuple[float, float]:
        if not decodes + new:
            return 0.0, 0.0
        chunks = ((new, context),) if new else ()
        return self._model.use(StepShape(decodes, decodes * mean, chunks, mean, mean, 0, (mean,) * decodes))


class PimEnergy:
    """Energy of memory that computes in one instance: attention, and products that a mapping puts there.

    Parameters
    ----------
    model
        What times the steps.
    architecture, ranks, kv_cache_dtype
        What they compute.
    device
        The memory's figures; None: only its attention's energy is known.
    """

    def __init__(
        self,
        model: PimStepModel,
        architecture: ModelArchitecture,
        ranks: Parallelism = ONE_RANK,
        kv_cache_dtype: str | None = None,
        device: PimDevice | None = None,
    ) -> None:
        self._attention = model.attention
        self._attends = model.in_memory
        self._device = device
        self._products = StepWork(architecture, ranks, kv_cache_dtype)
        self._products.samples = False
        there = [name for name in CLASSES if model.mapping[name] == "pim" and name != "attention_decode"]
        self._products.operators = tuple(
            op for op in _of_classes(self._products.operators, there) if not isinstance(op, Collective)
        )
        self.idle_w = self._attention.idle_w or 0.0

    def steps_j(self, steps: StepColumns) -> Floats:
        """Return the energy of steps beyond idle power, in joules."""
        joules = self._attention.steps_j(steps) if self._attends else np.zeros(len(steps.num_decodes))
        if self._device is None or not self._products.operators:
            return joules
        work = self._products.of(steps)
        return joules + work.total_bytes * self._device.access_j_per_byte + work.total_flops * self._device.operation_j

    def link_bytes(self, steps: StepColumns) -> Floats:
        """Return what attention's steps move between the accelerators and the memory."""
        return self._attention.link_bytes(steps) if self._attends else np.zeros(len(steps.num_decodes))


def _of_classes(ops: Sequence[RankOperator], classes: Sequence[OperatorClass]) -> Iterator[RankOperator]:
    """Yield collectives, and the operators of some classes; attention of both phases may be there for one of them."""
    for op in ops:
        if isinstance(op, AttentionKernel):
            phases = [p for p in ("decode", "prefill") if op.phase in (p, "both") and f"attention_{p}" in classes]
            if len(phases) == 2 or phases == [op.phase]:
                yield op
            elif phases:
                yield replace(op, phase="decode" if phases == ["decode"] else "prefill")
        elif isinstance(op, Collective) or operator_class(op.name) in classes:
            yield op


def _few_digits(values: Floats) -> NDArray[np.int64]:
    """Return values as `few_digits` does."""
    whole = np.floor(values + _ROUNDING).astype(np.int64)
    unit = np.int64(1) << np.maximum(np.frexp(np.maximum(whole, 1).astype(np.float64))[1] - DIGITS, 0).astype(np.int64)
    return np.asarray(whole // unit * unit)


def _half(steps: StepColumns) -> StepColumns:
    return StepColumns(*(getattr(steps, field.name) / 2 for field in fields(steps)[:6]))


def _twice(work: WorkColumns) -> WorkColumns:
    flops = {name: 2 * values for name, values in work.flops.items()}
    return WorkColumns(flops, 2 * work.weight_bytes, 2 * work.kv_bytes, 2 * work.decode_kv_bytes, 2 * work.link_bytes)


def _either(where: NDArray[np.bool_], one: WorkColumns, other: WorkColumns) -> WorkColumns:
    names = ("weight_bytes", "kv_bytes", "decode_kv_bytes", "link_bytes")
    flops = {name: np.where(where, one.flops[name], values) for name, values in other.flops.items()}
    return WorkColumns(flops, *(np.where(where, getattr(one, name), getattr(other, name)) for name in names))
