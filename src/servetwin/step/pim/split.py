"""A step model's time taken apart: attention of decodes, attention of prompts, the other operators, what stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from servetwin.core.errors import InputError
from servetwin.step.base import StepModel, StepShape
from servetwin.step.pim.placement import OperatorClass, operator_class

_PROBE = StepShape(2, 64, (), 32, 32)


class StepParts(NamedTuple):
    """The parts of one step by the accelerator's own model, in nanoseconds.

    Attributes
    ----------
    other
        By operator: all but attention and the host.
    decode_ns, prefill_ns
        Attention of decodes and of prompts.
    host_ns
        What the host adds once per step.
    """

    other: Mapping[str, float]
    decode_ns: float
    prefill_ns: float
    host_ns: float

    def of_class(self, name: OperatorClass) -> float:
        """Return the time of a class of operators."""
        if name == "attention_decode":
            return self.decode_ns
        if name == "attention_prefill":
            return self.prefill_ns
        return sum(part for key, part in self.other.items() if operator_class(key) == name)


def split_step(model: StepModel, shape: StepShape) -> StepParts:
    """Return the parts of a step; where a model computes attention of both phases as one, prompts count as if alone."""
    parts = dict(model.breakdown_ns(shape))
    host_ns = parts.pop("host", 0.0)
    if "attention" in parts:
        both = parts.pop("attention")
        alone = StepShape(0, 0, shape.prefills)
        prefill_ns = model.breakdown_ns(alone)["attention"] if shape.prefills else 0.0
        return StepParts(parts, max(0.0, both - prefill_ns), prefill_ns, host_ns)
    prefill_ns = parts.pop("attention_prefill", 0.0)
    return StepParts(parts, parts.pop("attention_decode", 0.0), prefill_ns, host_ns)


def check_splits(model: StepModel) -> None:
    """Raise an InputError if a model does not say how much of a step its attention is."""
    parts = model.breakdown_ns(_PROBE)
    if not {"attention", "attention_decode"} & set(parts):
        raise InputError(
            f"{type(model).__name__} does not tell attention from the rest of a step (its parts: {', '.join(parts)}); "
            "use roofline, operators or profile",
            where="base",
        )
