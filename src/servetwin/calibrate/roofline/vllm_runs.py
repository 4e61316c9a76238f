"""The runs of ``reference/vllm-0.15-h100``: a fixed set of prompts sent over and over at constant rates."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.roofline.closed_form import SteadyLoad, steady_state
from servetwin.step.base import StepModel

FILE = "vllm-0.15-h100/experiments.csv"
BLOCK_SIZE = 16
METRICS = ("end to end", "inter-token", "TTFT")

OVERLOADED = "reasoning"
"""These runs are far beyond saturation."""


@dataclass(frozen=True)
class Stage:
    """One load stage of an experiment, and its measured means in seconds."""

    experiment: str
    model: str
    tensor_parallel_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    system_prompts: int
    users_per_system_prompt: int
    system_prompt_tokens: int
    rate_per_s: float
    requests: int
    prompt_tokens: int
    output_tokens: int
    e2e_s: float
    ttft_s: float

    @property
    def inter_token_s(self) -> float:
        """Mean gap between tokens, by the requested output: the generator's own count of tokens is off."""
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)

    @property
    def measured(self) -> NDArray[np.float64]:
        """The three means, in the order of `METRICS`."""
        return np.array([self.e2e_s, self.inter_token_s, self.ttft_s])

    @property
    def load(self) -> SteadyLoad:
        """Its load: every prompt is cached but for its last, unfilled block (after the first round)."""
        cached = (self.prompt_tokens - 1) // BLOCK_SIZE * BLOCK_SIZE
        return SteadyLoad(self.rate_per_s, self.prompt_tokens - cached, cached, self.output_tokens)

    def predicted(self, model: StepModel, front_end_s: float) -> NDArray[np.float64]:
        """Return the three means by the closed form."""
        state = steady_state(model, self.load, front_end_s, self.max_num_seqs)
        return np.array([state.e2e_s(self.output_tokens), state.inter_token_s, state.ttft_s])


def read_stages(reference: Path) -> list[Stage]:
    """Return the load stages of all runs that are not overloaded."""
    with (reference / FILE).open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if OVERLOADED not in row["experiment"] and row["stage"] != "all"]
    return [_stage(row) for row in rows]


def _stage(row: Mapping[str, str]) -> Stage:
    rates = [float(part.split("/s")[0]) for part in row["stages"].split(";")]
    return Stage(
        row["experiment"],
        row["model"],
        int(row["tensor_parallel_size"]),
        int(row["max_num_seqs"]),
        int(row["max_num_batched_tokens"]),
        int(row["system_prompts"]),
        int(row["users_per_system_prompt"]),
        int(row["system_prompt_tokens"]),
        rates[int(row["stage"])],
        int(row["requests"]),
        int(row["system_prompt_tokens"]) + int(row["question_tokens"]),
        int(row["output_tokens"]),
        float(row["e2e_mean_s"]),
        float(row["ttft_mean_s"]),
    )


def run_errors(
    stages: Iterable[Stage], model_of: Callable[[Stage], StepModel], front_end_s: float
) -> dict[str, NDArray[np.float64]]:
    """Return the relative errors of each experiment's means over all its requests, in the order of `METRICS`."""
    by_run: dict[str, list[Stage]] = {}
    for stage in stages:
        by_run.setdefault(stage.experiment, []).append(stage)
    errors = {}
    for name, parts in by_run.items():
        weights = np.array([part.requests for part in parts], dtype=np.float64)
        measured = np.average([part.measured for part in parts], axis=0, weights=weights)
        predicted = np.average([p.predicted(model_of(p), front_end_s) for p in parts], axis=0, weights=weights)
        errors[name] = predicted / measured - 1
    return errors
