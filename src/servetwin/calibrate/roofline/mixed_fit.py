"""How much slower decodes attend beside a prompt's chunk: LLMServingSim's measured attention on an RTX PRO 6000."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from servetwin.core.units import NS_PER_US
from servetwin.hardware.catalogue import load_device
from servetwin.llm.catalogue import load_model
from servetwin.step.base import StepShape
from servetwin.step.efficiency import Efficiency
from servetwin.step.roofline import RooflineStepModel

PROFILES = "llmservingsim/profiles-v1/RTXPRO6000"
DEVICE = "RTXPRO6000"
MODELS = ("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-32B")
SHARES = np.linspace(0.2, 1.0, 81)


def fit_mixed(reference: Path, efficiency: Efficiency) -> float:
    """Return the share of bandwidth with the least mean error (of the logarithm) over all rows that mix the two."""
    measured, decodes, prompts = (np.array(column) for column in zip(*_rows(reference, efficiency), strict=True))
    errors = [np.mean(np.abs(np.log((prompts + decodes / share) / measured))) for share in SHARES]
    return float(np.round(SHARES[int(np.argmin(errors))], 2))


def _rows(reference: Path, efficiency: Efficiency) -> list[tuple[float, float, float]]:
    found = []
    for name in MODELS:
        alone = efficiency.changed({"mixed_bandwidth": 1.0, "layer_us": 0.0})
        model = RooflineStepModel(load_model(name), load_device(DEVICE), efficiency=alone)
        layers = model.architecture.num_hidden_layers
        with (reference / PROFILES / name / "bf16/tp1/attention.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                chunk, n = int(row["prefill_chunk"]), int(row["n_decode"])
                if not chunk or not n:
                    continue
                shape = StepShape(n, n * int(row["kv_decode"]), ((chunk, int(row["kv_prefill"])),))
                parts = model.breakdown_ns(shape)
                fixed = parts["attention_launch"] + parts["attention_prefill"]
                scale = layers * NS_PER_US
                found.append((float(row["time_us"]), parts["attention_decode"] / scale, fixed / scale))
    return found
