"""The runs of ``reference/vllm-0.15-h100``, simulated request by request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.roofline.run_fit import DEVICE, RunCoefficients, step_model
from servetwin.calibrate.roofline.vllm_runs import Stage
from servetwin.scenario.run import simulate

WARM_UP_S = 30.0
"""Simulated first, at the first stage's rate, and not counted: prompts of the first round are not cached."""

STAGE_S = 60.0
"""How long each stage is simulated; measured ones last ten or twenty minutes."""


def scenario_of(stages: Sequence[Stage], coefficients: RunCoefficients) -> dict[str, Any]:
    """Return an experiment as a scenario: its prompts, its stages, its server."""
    first = stages[0]
    loads = [(first.rate_per_s, WARM_UP_S), *((stage.rate_per_s, STAGE_S) for stage in stages)]
    rounds = {"stages": [{"rate_per_s": rate, "duration_s": seconds} for rate, seconds in loads]}
    return {
        "model": first.model,
        "workload": {
            "kind": "synthetic",
            "arrivals": {"kind": "stages", "process": "scattered", **rounds},
            "shared_prefix": {
                "num_groups": first.system_prompts,
                "num_prompts_per_group": first.users_per_system_prompt,
                "system_prompt_len": first.system_prompt_tokens,
                "question_len": first.prompt_tokens - first.system_prompt_tokens,
                "output_len": first.output_tokens,
            },
        },
        "cluster": [
            {
                "name": "vllm",
                "hardware": {"device": DEVICE},
                "engine": {
                    "max_num_seqs": first.max_num_seqs,
                    "max_num_batched_tokens": first.max_num_batched_tokens,
                    "tensor_parallel_size": first.tensor_parallel_size,
                    "async_scheduling": True,
                },
                "step": {"model": step_model(first.model, first.tensor_parallel_size, coefficients)},
            }
        ],
    }


def simulated_means(stages: Sequence[Stage], coefficients: RunCoefficients) -> NDArray[np.float64]:
    """Return the means of end-to-end latency, gap between tokens and TTFT in seconds, weighted as measured."""
    result = simulate(scenario_of(stages, coefficients), folder=Path.cwd())
    arrival, first, finish = (
        np.asarray(result.requests[name], dtype=np.float64) for name in ("arrival_s", "first_token_s", "finish_s")
    )
    stage = np.minimum((arrival - WARM_UP_S) // STAGE_S, len(stages) - 1).astype(int)
    means = []
    for i, measured in enumerate(stages):
        mine = stage == i
        gap = float(np.mean(finish[mine] - first[mine])) / (measured.output_tokens - 1)
        ttft = float(np.mean(first[mine] - arrival[mine])) + coefficients.front_end_us * 1e-6
        means.append([ttft + gap * (measured.output_tokens - 1), gap, ttft])
    return np.average(means, axis=0, weights=[measured.requests for measured in stages])
