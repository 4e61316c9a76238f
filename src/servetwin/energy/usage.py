"""Who used the accelerators how long: each step's accelerator-seconds, shared among prompts and outputs by tokens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import SimulationOutcome
from servetwin.energy.attribution import request_shares
from servetwin.energy.model import rows_by_instance
from servetwin.energy.steps import steps_of

Floats = NDArray[np.float64]


def accelerator_seconds(outcome: SimulationOutcome, accelerators: Mapping[str, int]) -> tuple[Floats, Floats]:
    """Return the accelerator-seconds of each request's prompt and of its output, two columns of shape ``(requests,)``.

    Parameters
    ----------
    accelerators
        Of one instance, by the name of its pool.
    """
    rows, count = rows_by_instance(outcome), len(outcome.workload)
    prompts, outputs = np.zeros(count), np.zeros(count)
    for number, spec in enumerate(outcome.instances):
        if spec.pool not in accelerators:
            continue
        steps = steps_of(outcome, rows[number], outcome.logs[number])
        seconds = steps.seconds * accelerators[spec.pool]
        of_prompts, of_outputs = request_shares(steps, seconds, np.zeros_like(seconds), count)
        prompts += of_prompts
        outputs += of_outputs
    return prompts, outputs
