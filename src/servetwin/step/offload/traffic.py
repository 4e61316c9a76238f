"""What steps load from memory beside the accelerators, as columns, for the account after the run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from servetwin.step.base import StepShape
from servetwin.step.offload.model import OffloadedStepModel
from servetwin.step.work_columns import StepColumns


class StepLoads:
    """Bytes that steps of one instance move between its accelerators and memory beside them.

    Parameters
    ----------
    model
        What times the steps.
    ranks
        Accelerators that each load their part.
    """

    def __init__(self, model: OffloadedStepModel, ranks: int) -> None:
        self._model = model
        self._ranks = ranks

    def of(self, steps: StepColumns) -> Mapping[str, NDArray[np.float64]]:
        """Return the bytes of each step by memory device; experts on demand as many as are expected."""
        tokens, place = np.unique(np.rint(steps.num_tokens).astype(np.int64), return_inverse=True)
        found = [self._of_tokens(int(n)) for n in tokens]
        context = steps.decode_kv_tokens + steps.prefill_context
        kv = self._per_context_token()
        return {
            name: (np.array([loads[name] for loads in found])[place] + kv.get(name, 0.0) * context) * self._ranks
            for name in (found[0] if found else ())
        }

    def _of_tokens(self, tokens: int) -> Mapping[str, float]:
        return self._model.loaded_bytes(StepShape(tokens, 0, ()))

    def _per_context_token(self) -> Mapping[str, float]:
        none, one = (self._model.loaded_bytes(StepShape(1, tokens, ())) for tokens in (0, 1))
        return {name: one[name] - none[name] for name in one}
