"""The affine step model: a constant plus a cost per token, per request and per KV token read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from servetwin.core.errors import InputError
from servetwin.step.affine_run import affine_run_ns, affine_step_ns
from servetwin.step.base import StepModelBase, StepShape, step_models


@step_models.register("affine")
class AffineStepModel(StepModelBase):
    """Step time as a plane: for tests, for teaching, and for closed forms of queueing theory.

    Parameters
    ----------
    base_ns
        Per step.
    per_token_ns
        Per token computed.
    per_sequence_ns
        Per request in the step.
    per_kv_token_ns
        Per token of context that is read (of decodes and of prefill chunks alike).

    Raises
    ------
    InputError
        If a coefficient is negative or no number.
    """

    def __init__(
        self,
        base_ns: float = 5_000_000.0,
        per_token_ns: float = 20_000.0,
        per_sequence_ns: float = 0.0,
        per_kv_token_ns: float = 40.0,
    ) -> None:
        super().__init__()
        self.base_ns = _coefficient("base_ns", base_ns)
        self.per_token_ns = _coefficient("per_token_ns", per_token_ns)
        self.per_sequence_ns = _coefficient("per_sequence_ns", per_sequence_ns)
        self.per_kv_token_ns = _coefficient("per_kv_token_ns", per_kv_token_ns)

    def breakdown_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the four parts, in nanoseconds."""
        return {
            "base": self.base_ns,
            "tokens": self.per_token_ns * shape.num_tokens,
            "sequences": self.per_sequence_ns * shape.num_sequences,
            "kv": self.per_kv_token_ns * _kv_tokens(shape),
        }

    def duration_ns(self, shape: StepShape) -> int:
        """Return the sum of the four parts, rounded once."""
        flat_ns = self._flat_ns(shape.num_tokens, shape.num_sequences)
        return affine_step_ns(flat_ns, self.per_kv_token_ns, _kv_tokens(shape))

    def decode_run_ns(self, shape: StepShape, max_steps: int, limit_ns: int) -> Sequence[int]:
        """Return a run in closed form; equal to single steps."""
        n = shape.num_decodes
        return affine_run_ns(self._flat_ns(n, n), self.per_kv_token_ns, shape.decode_kv_tokens, n, max_steps, limit_ns)

    def _flat_ns(self, num_tokens: int, num_sequences: int) -> float:
        return self.base_ns + self.per_token_ns * num_tokens + self.per_sequence_ns * num_sequences


def _kv_tokens(shape: StepShape) -> int:
    return shape.decode_kv_tokens + sum(context for _, context in shape.prefills)


def _coefficient(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InputError(f"{name} must be a number of at least 0, got {value!r}")
    return float(value)
