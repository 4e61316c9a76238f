"""The rows of ``reference/mlenergy/h100_dense.csv``: vLLM on H100, kept saturated at ``max_num_seqs``.

The file holds no prompt lengths and no engine version. One prompt length per task is assumed, the same for all models.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.roofline.closed_form import saturated_step_s
from servetwin.step.base import StepModel

FILE = "mlenergy/h100_dense.csv"
METRICS = ("median inter-token", "throughput")

PROMPT_TOKENS = {"lm-arena-chat": 256, "gpqa": 256}
"""Assumed: chat questions and multiple-choice questions of graduate level are a few hundred tokens long."""

MAX_NUM_BATCHED_TOKENS = 8192


@dataclass(frozen=True)
class Row:
    """One deployment and what was measured: seconds, output tokens per second."""

    task: str
    model: str
    tensor_parallel_size: int
    batch: float
    output_tokens: float
    inter_token_s: float
    throughput_per_s: float

    @property
    def measured(self) -> NDArray[np.float64]:
        """The two figures, in the order of `METRICS`."""
        return np.array([self.inter_token_s, self.throughput_per_s])

    def predicted(self, model: StepModel, prompt_scale: float = 1.0) -> NDArray[np.float64]:
        """Return the two figures with the assumed prompt length, scaled."""
        prompt = max(1, round(PROMPT_TOKENS[self.task] * prompt_scale))
        median, mean = saturated_step_s(model, self.batch, prompt, self.output_tokens, MAX_NUM_BATCHED_TOKENS)
        return np.array([median, self.batch / mean])


def read_rows(reference: Path) -> list[Row]:
    """Return all rows."""
    with (reference / FILE).open(encoding="utf-8") as file:
        return [_row(row) for row in csv.DictReader(file)]


def _row(row: Mapping[str, str]) -> Row:
    return Row(
        row["task"],
        row["model_id"],
        int(row["tensor_parallel"]),
        float(row["avg_batch_size"]),
        float(row["avg_output_len"]),
        float(row["median_itl_ms"]) / 1e3,
        float(row["output_throughput_tokens_per_sec"]),
    )
