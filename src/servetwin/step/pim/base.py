"""The contract of attention in memory: how long the decodes of a step take there, and what energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from servetwin.step.base import StepShape
from servetwin.step.work_columns import StepColumns

Floats = NDArray[np.float64]


class Decodes(NamedTuple):
    """The decodes of a step, as far as attention needs to know them.

    Attributes
    ----------
    num, kv_tokens
        How many, and the sum of their contexts without the new tokens.
    kv_max
        Longest context; 0 where it is not kept up.
    prompts
        Prompt lengths in running order; empty where they are not given.
    """

    num: int
    kv_tokens: int
    kv_max: int = 0
    prompts: tuple[int, ...] = ()


class PimAttention(Protocol):
    """Attention of decodes in memory, over all layers of one rank."""

    needs: frozenset[str]
    """As of a step model: ``"kv_extremes"``, ``"decode_prompts"``, or nothing."""

    capacity_bytes: int | None
    """Room for KV; None where it is not known (then it is not checked)."""

    def step_ns(self, decodes: Decodes) -> float:
        """Return the time of a step's decode attention, queries to it and outputs from it included; 0 without any."""
        ...

    def prompts_ns(self, prefills: Sequence[tuple[int, int]]) -> float:
        """Return how long prompt chunks ``(new, context)`` keep the way to the memory busy.

        Keys and values of new tokens are written to it, those of the context are read from it by the accelerator.
        """
        ...

    @property
    def idle_w(self) -> float | None:
        """Idle power of the whole memory, all ranks' together; None where it is not known."""
        ...

    def steps_j(self, steps: StepColumns) -> Floats:
        """Return the energy of many steps beyond idle power, over all ranks, in joules; prompts' KV included."""
        ...

    def link_bytes(self, steps: StepColumns) -> Floats:
        """Return what many steps move between the accelerators and the memory, over all ranks."""
        ...


def decodes_of(shape: StepShape) -> Decodes:
    """Return the decodes of a step."""
    return Decodes(shape.num_decodes, shape.decode_kv_tokens, shape.decode_kv_max, shape.decode_prompts)
