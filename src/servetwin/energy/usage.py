"""Who used the accelerators how long: each step's accelerator-seconds, shared among prompts and outputs by tokens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import SimulationOutcome
from servetwin.energy.attribution import request_shares
from servetwin.energy.base import ENCODERS
from servetwin.energy.encoders import encoder_seconds
from servetwin.energy.model import Energy, rows_by_instance
from servetwin.energy.steps import steps_of

Floats = NDArray[np.float64]


def accelerator_seconds(
    outcome: SimulationOutcome, accelerators: Mapping[str, int], energy: Energy | None = None
) -> tuple[Floats, Floats]:
    """Return the accelerator-seconds of each request's prompt and of its output, two columns of shape ``(requests,)``.

    Parameters
    ----------
    accelerators
        Of one instance, by the name of its pool.
    energy
        Where it is known already: its steps are used again.
    """
    count = len(outcome.workload)
    known = {item.number: item.steps for record in energy.pools for item in record.instances} if energy else {}
    rows = [] if len(known) == len(outcome.instances) else rows_by_instance(outcome)
    prompts, outputs = np.zeros(count), np.zeros(count)
    for number, spec in enumerate(outcome.instances):
        if spec.pool not in accelerators:
            continue
        steps = known[number] if number in known else steps_of(outcome, number, rows[number])
        seconds = steps.seconds * accelerators[spec.pool]
        of_prompts, of_outputs = request_shares(steps, seconds, np.zeros_like(seconds), count)
        prompts += of_prompts
        outputs += of_outputs
    if ENCODERS in accelerators:
        prompts += encoder_seconds(outcome)
    return prompts, outputs
