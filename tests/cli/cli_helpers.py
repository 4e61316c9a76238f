"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

SCENARIO = """\
seed: 1
cluster:
  - name: chat
    replicas: 2
    engine: {num_gpu_blocks_override: 400, max_model_len: 2048}
    step: {model: affine}
router: least_outstanding
workload: {kind: synthetic, requests: 40, arrivals: {kind: poisson, rate_per_s: 20},
           prompt_tokens: {kind: lognormal, mean: 60, sigma: 1.0, max: 1000}, output_tokens: 10}
slo: {ttft_s: 0.5, tpot_s: 0.05}
"""


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]
"""Runs the command line with the given arguments."""
