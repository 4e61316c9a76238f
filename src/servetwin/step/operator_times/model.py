"""The roofline with operator times from outside in place of its own, where there are some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from servetwin.core.errors import InputError
from servetwin.core.units import NS_PER_S
from servetwin.hardware.base import Device
from servetwin.hardware.operator_sources import OperatorSources, read_operator_sources
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.operators import AttentionKernel, Collective, RankOperator, operators
from servetwin.llm.parallel import Parallelism
from servetwin.network.base import Collectives
from servetwin.step.base import StepModelBase, StepShape, step_models
from servetwin.step.host import HostOverhead
from servetwin.step.operator_times.base import ATTENTION, OperatorOverRows, OperatorTimes
from servetwin.step.operator_times.command import CommandTimes, OperatorCommand
from servetwin.step.operator_times.tables import read_operator_tables
from servetwin.step.operators import Work, counts
from servetwin.step.roofline import DEFAULT_HOST_OVERHEAD, RooflineStepModel


class OperatorStepModel(StepModelBase):
    """A step as the sum of its operators: from the first source that knows one, else from the roofline.

    Where both phases of attention are known from outside, the roofline's own cost per layer of starting attention is
    left out: what an operator costs to start is in its time.

    Parameters
    ----------
    roofline
        For what no source knows, collectives, the sampler, and the host.
    ops
        Operators of one rank.
    sources
        Asked in this order.
    """

    def __init__(
        self, roofline: RooflineStepModel, ops: Sequence[RankOperator], sources: Sequence[OperatorTimes]
    ) -> None:
        self._roofline = roofline
        self._sources = sources
        self._row_ops: list[OperatorOverRows] = [op for op in ops if not isinstance(op, AttentionKernel | Collective)]
        self._attention = [op for op in ops if isinstance(op, AttentionKernel)]
        self._run_ns: dict[tuple[int, int], float | None] = {}
        self._fixed: dict[int, float] = {}
        self._said: list[str] = []

    @property
    def notices(self) -> list[str]:
        """What the sources say."""
        said = [notice for source in self._sources for notice in source.notices]
        return list(dict.fromkeys([*self._roofline.notices, *said, *self._said]))

    @notices.setter
    def notices(self, notices: list[str]) -> None:
        self._said = notices

    def breakdown_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the step's time by operator, collective and host, in nanoseconds."""
        parts = dict(self._roofline.breakdown_ns(shape))
        applied = counts(shape)
        known: dict[str, float] = {}
        for index, op in enumerate(self._row_ops):
            rows = applied[op.applies_to]
            time_ns = self._rows_ns(index, op, rows) if rows else 0.0
            if time_ns is not None:
                known[op.name] = known.get(op.name, 0.0) + op.count * time_ns
        parts |= known
        phases = {"attention_decode": self._decodes_ns(shape), "attention_prefill": self._prefills_ns(shape)}
        parts |= {name: time_ns for name, time_ns in phases.items() if time_ns is not None}
        outside = [time_ns for time_ns in phases.values() if time_ns is not None]
        if len(outside) == len(phases):
            parts["attention_launch"] = 0.0
        if known or outside:
            parts["launches"] = 0.0
        return parts

    def duration_ns(self, shape: StepShape) -> int:
        """Return the sum of the parts; of decodes alone all but their attention is worked out once."""
        n = shape.num_decodes
        if shape.prefills or not n:
            return max(1, round(sum(self.breakdown_ns(shape).values())))
        decodes_ns = self._decodes_ns(shape)
        if decodes_ns is None:
            return max(1, round(sum(self.breakdown_ns(shape).values())))
        fixed = self._fixed.get(n)
        if fixed is None:
            parts = dict(self.breakdown_ns(shape))
            del parts["attention_decode"]
            fixed = self._fixed[n] = sum(parts.values())
        return max(1, round(fixed + decodes_ns))

    def _rows_ns(self, index: int, op: OperatorOverRows, rows: int) -> float | None:
        key = (index, rows)
        if key not in self._run_ns:
            times = (source.rows_ns(op, rows) for source in self._sources)
            self._run_ns[key] = next((time for time in times if time is not None), None)
        return self._run_ns[key]

    def _decodes_ns(self, shape: StepShape) -> float | None:
        """Return the time of all layers' attention of decodes; None unless it is known of every kind of layer."""
        n, total = shape.num_decodes, 0.0
        for op in self._attention:
            if op.phase == "prefill":
                continue
            tokens = shape.decode_kv_tokens
            tokens = min(tokens, n * (op.window - 1)) if op.window else tokens
            time_ns = self._first(op, n, tokens) if n else self._first(op, 1, 0)
            if time_ns is None:
                return None
            total += op.count * time_ns if n else 0.0
        return total

    def _first(self, op: AttentionKernel, decodes: int, kv_tokens: int) -> float | None:
        times = (source.decode_ns(op, decodes, kv_tokens) for source in self._sources)
        return next((time for time in times if time is not None), None)

    def _prefills_ns(self, shape: StepShape) -> float | None:
        """Return the time of all layers' attention of chunks; None unless it is known of every kind of layer."""
        total = 0.0
        for op in self._attention:
            if op.phase == "decode":
                continue
            for new, context in shape.prefills or ((1, 0),):
                seen = min(context, op.window - 1) if op.window else context
                times = (source.prefill_ns(op, new, seen) for source in self._sources)
                time_ns = next((time for time in times if time is not None), None)
                if time_ns is None:
                    return None
                total += op.count * time_ns if shape.prefills else 0.0
        return total

    def work(self, shape: StepShape) -> Mapping[str, Work]:
        """Return what one rank computes and moves in the step, by operator."""
        return self._roofline.work(shape)

    def known_operators(self) -> list[str]:
        """Return the names of the operators that a source knows."""
        shape = StepShape(1, 16, ((16, 0),))
        known = [op.name for index, op in enumerate(self._row_ops) if self._rows_ns(index, op, 16) is not None]
        phases = zip(ATTENTION, (self._decodes_ns(shape), self._prefills_ns(shape)), strict=True)
        return sorted({*known, *(name for name, time_ns in phases if time_ns is not None)})


@step_models.register("operators")
def operator_step_model(
    architecture: ModelArchitecture,
    device: Device,
    folder: Path,
    allow_commands: bool = False,
    tensor_parallel_size: int = 1,
    collectives: Collectives | None = None,
    dtype: str | None = None,
    kv_cache_dtype: str | None = None,
    host: HostOverhead = DEFAULT_HOST_OVERHEAD,
    enforce_eager: bool = False,
    efficiency: Mapping[str, float] | None = None,
    operators_from: Mapping[str, object] | None = None,
) -> OperatorStepModel:
    """Return the step model of a device that brings operator times.

    Parameters
    ----------
    architecture, device, tensor_parallel_size, collectives, dtype, kv_cache_dtype, host, enforce_eager
        As of the roofline.
    efficiency
        Changes coefficients of the roofline, which counts where no time is known.
    folder
        From which relative paths of ``operators_from`` count.
    allow_commands
        Whether a command may run.
    operators_from
        ``{tables, command, timeout_s, cache}``, in place of those of the device's file.

    Raises
    ------
    InputError
        If there are no operator times, something in them is wrong, or a command may not run.
    """
    given = device.operators
    if operators_from is not None:
        given = read_operator_sources(operators_from, "operators_from", folder)
    if given is None:
        hint = "give operators: {tables: ...} in its file, or operators_from here"
        raise InputError(f"{device.name} brings no operator times: {hint}")
    roofline = RooflineStepModel(
        architecture, device, tensor_parallel_size, collectives, dtype, kv_cache_dtype, host, efficiency, enforce_eager
    )
    ops = operators(roofline.architecture, Parallelism(tensor=tensor_parallel_size), kv_cache_dtype=kv_cache_dtype)
    sources = _sources(given, device, architecture, tensor_parallel_size, allow_commands)
    model = OperatorStepModel(roofline, ops, sources)
    model.notices = _too_fast(model, device)
    return model


def _too_fast(model: OperatorStepModel, device: Device) -> list[str]:
    """Return what to say where operators take less time than the device's data sheet allows."""
    shape = StepShape(64, 64 * 1024, ((512, 0),))
    parts, works = model.breakdown_ns(shape), model.work(shape)
    peak = max(device.peak_flops.values())
    bounds = {
        name: max(work.flops / peak, work.num_bytes / device.memory_bandwidth_bytes_per_s) * NS_PER_S
        for name, work in works.items()
    }
    fast = [name for name in model.known_operators() if parts[name] < 0.99 * bounds.get(name, 0.0)]
    if not fast:
        return []
    return [f"faster than the data sheet of {device.name} allows (peaks and bandwidth): {', '.join(fast)}"]


def _sources(
    given: OperatorSources, device: Device, architecture: ModelArchitecture, ranks: int, allow_commands: bool
) -> list[OperatorTimes]:
    sources: list[OperatorTimes] = []
    if given.tables:
        sources.append(read_operator_tables(given.tables, architecture.name, ranks))
    if given.command:
        if not allow_commands:
            raise InputError(
                f"the scenario asks an external command for operator times: {' '.join(given.command)} (in "
                f"{given.folder}). Look at what it does; if it may run, add --allow-commands (from Python: "
                "allow_commands=True)",
            )
        command = OperatorCommand(given.command, given.folder, given.timeout_s, given.cache)
        sources.append(CommandTimes(command, device.name, architecture.name, ranks))
    return sources
