"""The step model of an accelerator beside memory that computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from servetwin.core.errors import InputError
from servetwin.hardware.pim import PimDevice
from servetwin.step.base import StepModel, StepModelBase, StepShape
from servetwin.step.operators import Work
from servetwin.step.pim.base import PimAttention, decodes_of
from servetwin.step.pim.interleave import Half, halves, lss_halves, makespan_ns
from servetwin.step.pim.placement import CLASSES, OperatorClass, Resource, operator_class
from servetwin.step.pim.split import split_step

Interleaving = Literal["off", "auto", "lss"]

DIGITS = 5
"""Leading binary digits in which steps agree that use the accelerator alike."""


class Elsewhere(Protocol):
    """Times of operator classes in one place beside the accelerator."""

    def time_ns(self, name: OperatorClass, shape: StepShape) -> float:
        """Return the time of a class in a step, crossings included."""
        ...


class _Times(NamedTuple):
    """One batch's times: by part on the accelerator and what is serial with it, attention, and what comes once.

    ``own_ns``: of all these, what the accelerator computes.
    """

    serial: Mapping[str, float]
    serial_ns: float
    prefill_ns: float
    decode_ns: float
    host_ns: float
    own_ns: float


class Use(NamedTuple):
    """How a step uses the accelerator: whether halves take turns, and the share of it in which nothing runs there."""

    turns: bool
    waiting: float


class PimStepModel(StepModelBase):
    """A step whose operators run in up to three places: accelerator, memory that computes, host.

    Operators follow each other, but attention of decodes in memory runs beside attention of prompts on the accelerator
    (``overlap``), and with interleaving two half batches take turns.

    Parameters
    ----------
    base
        The accelerator's step model; its breakdown tells attention from the rest.
    attention
        Attention of decodes in memory.
    mapping
        Where each class of operators runs.
    elsewhere
        The places beside the accelerator that have classes other than decode attention.
    num_layers
        Layers in which halves take turns.
    interleaving
        ``"off"``; ``"auto"``: in each step in which it is predicted to be faster, so never slower than without;
        ``"lss"``: in every step of two requests or more, split as LLMServingSim does.
    overlap
        Whether attention of prompts and of decodes run at the same time (LLMServingSim: not).
    decodes_again
        Whether a step with prompts computes the decodes' attention on the accelerator too (LLMServingSim of 2026-03,
        see ``docs/pim.md``).
    """

    def __init__(
        self,
        base: StepModel,
        attention: PimAttention,
        mapping: Mapping[OperatorClass, Resource],
        *,
        num_layers: int,
        elsewhere: Mapping[Resource, Elsewhere] | None = None,
        interleaving: Interleaving = "auto",
        overlap: bool = True,
        decodes_again: bool = False,
    ) -> None:
        super().__init__()
        self.base = base
        self.attention = attention
        self.mapping = dict(mapping)
        self.in_memory = mapping["attention_decode"] == "pim"
        """Whether attention of decodes runs in memory, and KV stands there."""
        self._elsewhere = dict(elsewhere or {})
        self._moved = [
            name for name in CLASSES if mapping[name] != "accelerator" and (name, mapping[name]) != _DECODES_IN_MEMORY
        ]
        self._layers = num_layers
        self._interleaving: Interleaving = interleaving if self.in_memory else "off"
        self._overlap = overlap
        self._decodes_again = decodes_again
        self.needs = base.needs | (attention.needs if self.in_memory else frozenset())
        self._of_decodes: dict[int, _Times] = {}
        self.device: PimDevice | None = None
        self.uses: dict[tuple[int, int, int, int], Use] = {}
        """How steps used the accelerator, by `few_digits` of decodes, mean context, prompts' tokens and context."""

    @property
    def notices(self) -> list[str]:
        """What the accelerator's model says, and what was chosen here."""
        return list(dict.fromkeys([*self.base.notices, *self._own_notices]))

    @notices.setter
    def notices(self, notices: list[str]) -> None:
        self._own_notices = notices

    def duration_ns(self, shape: StepShape) -> int:
        """See `StepModel`."""
        if not self.in_memory and not self._moved:
            return self.base.duration_ns(shape)
        total_ns, batches = self._fastest(shape)
        key = _key(shape)
        if key not in self.uses:
            self.uses[key] = _use(total_ns, batches)
        return max(1, round(total_ns))

    def use(self, shape: StepShape) -> Use:
        """Return how a step uses the accelerator; one that is alike serves, if it was timed already."""
        if not self.in_memory and not self._moved:
            return Use(False, 0.0)
        key = _key(shape)
        if key not in self.uses:
            self.uses[key] = _use(*self._fastest(shape))
        return self.uses[key]

    def interleaves(self, shape: StepShape) -> bool:
        """Return whether two half batches take turns in this step."""
        return len(self._fastest(shape)[1]) > 1

    def _fastest(self, shape: StepShape) -> tuple[float, tuple[_Times, ...]]:
        """Return a step's time, and that of its batch, or of two halves where they take turns."""
        whole = self._times(shape)
        plain_ns = whole.host_ns + whole.serial_ns + self._attention_ns(whole)
        if self._interleaving == "off" or (self._interleaving == "auto" and not shape.num_decodes):
            return plain_ns, (whole,)
        parts = (lss_halves if self._interleaving == "lss" else halves)(shape)
        if parts is None:
            return plain_ns, (whole,)
        first, second = (self._times(part) for part in parts)
        turns_ns = whole.host_ns + makespan_ns(_half(first), _half(second), self._layers)
        if self._interleaving == "auto" and turns_ns >= plain_ns:
            return plain_ns, (whole,)
        return turns_ns, (first, second)

    def _attention_ns(self, times: _Times) -> float:
        if self._overlap and self.in_memory and self.mapping["attention_prefill"] == "accelerator":
            return max(times.prefill_ns, times.decode_ns)
        return times.prefill_ns + times.decode_ns

    def _times(self, shape: StepShape) -> _Times:
        if not self.in_memory:
            return self._parts(shape, shape)
        fixed = self._of_decodes.get(shape.num_decodes) if not shape.prefills else None
        if fixed is None:
            fixed = self._parts(shape, self._on_accelerator(shape))
            if self._decodes_again and shape.prefills:
                fixed = fixed._replace(prefill_ns=fixed.prefill_ns + fixed.decode_ns)
            if shape.prefills:  # their keys and values pass beside all that the accelerator does
                beside_ns = self.attention.prompts_ns(shape.prefills) - fixed.serial_ns
                fixed = fixed._replace(prefill_ns=max(fixed.prefill_ns, beside_ns))
            else:
                self._of_decodes[shape.num_decodes] = fixed
        return fixed._replace(decode_ns=self.attention.step_ns(decodes_of(shape)))

    def _on_accelerator(self, shape: StepShape) -> StepShape:
        """Return the batch as the accelerator sees it: decodes without contexts, unless it attends to them too."""
        if self._decodes_again and shape.prefills:
            return shape
        return StepShape(shape.num_decodes, 0, shape.prefills)

    def _parts(self, shape: StepShape, on_accelerator: StepShape) -> _Times:
        """Return a batch's times, each class in its place; decode attention in memory is left to `_times`."""
        if not shape.num_sequences:
            return _NOTHING
        own = split_step(self.base, on_accelerator)
        moved = {name: self._elsewhere[self.mapping[name]].time_ns(name, shape) for name in self._moved}
        serial = dict(own.other)
        for name in self._moved:
            serial = _without(serial, name)
        serial |= {f"{name} ({self.mapping[name]})": moved[name] for name in moved if not name.startswith("attention")}
        prefill_ns = moved.get("attention_prefill", own.prefill_ns)
        decode_ns = moved.get("attention_decode", own.decode_ns)
        serial_ns = sum(serial.values())
        return _Times(
            serial,
            serial_ns,
            prefill_ns,
            decode_ns,
            own.host_ns,
            serial_ns + prefill_ns + decode_ns * (not self.in_memory) - sum(moved.values()),
        )

    def breakdown_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the time by part; ``attention_pim`` is what of the memory's time nothing hides."""
        if not self.in_memory and not self._moved:
            return self.base.breakdown_ns(shape)
        total_ns, batches = self._fastest(shape)
        found: dict[str, float] = {}
        for times in batches:
            for key, part in times.serial.items():
                found[key] = found.get(key, 0.0) + part
        found["attention_prefill"] = sum(times.prefill_ns for times in batches)
        found["host"] = batches[0].host_ns
        found["attention_pim" if self.in_memory else "attention_decode"] = max(0.0, total_ns - sum(found.values()))
        return found

    def work(self, shape: StepShape) -> Mapping[str, Work]:
        """Return what the accelerator computes and moves in the step, by operator.

        Raises
        ------
        InputError
            If its own step model does not know.
        """
        work = getattr(self.base, "work", None)
        if work is None:
            raise InputError(f"{type(self.base).__name__} does not know the work of a step", where="base")
        away = {name for name in CLASSES if self.mapping[name] != "accelerator"}
        own: Mapping[str, Work] = work(shape)
        return {name: amount for name, amount in own.items() if operator_class(name) not in away}

    def pim_busy_ns(self, shape: StepShape) -> float:
        """Return how long the memory computes in a step, hidden or not."""
        if not self.in_memory:
            return 0.0
        return sum(times.decode_ns for times in self._fastest(shape)[1])


def _use(total_ns: float, batches: tuple[_Times, ...]) -> Use:
    own_ns = batches[0].host_ns + sum(times.own_ns for times in batches)
    return Use(len(batches) > 1, max(0.0, 1.0 - own_ns / total_ns))


def _key(shape: StepShape) -> tuple[int, int, int, int]:
    """Return a batch's figures with few binary digits."""
    n = shape.num_decodes
    new = sum(tokens for tokens, _ in shape.prefills)
    context = sum(tokens for _, tokens in shape.prefills)
    return few_digits(n), few_digits(shape.decode_kv_tokens // n if n else 0), few_digits(new), few_digits(context)


def few_digits(number: int) -> int:
    """Return a number with as many leading binary digits as `DIGITS`, and zeros."""
    shift = max(0, number.bit_length() - DIGITS)
    return number >> shift << shift


_DECODES_IN_MEMORY = ("attention_decode", "pim")
_NOTHING = _Times({}, 0.0, 0.0, 0.0, 0.0, 0.0)


def _half(times: _Times) -> Half:
    return Half(times.serial_ns + times.prefill_ns, times.decode_ns)


def _without(serial: Mapping[str, float], name: OperatorClass) -> dict[str, float]:
    """Return the parts without those of a class."""
    return {key: part for key, part in serial.items() if operator_class(key) != name}
