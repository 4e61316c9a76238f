"""Answers how long operators take on the Acme NPU: a question as JSON on standard input, times as JSON on output.

A stand-in for a cycle-level simulator. It knows matrix products and decode attention, and says null for the rest.
"""

import json
import sys

PEAK_FLOPS = 200e12
BANDWIDTH = 1200e9
TILE = 128  # rows of the systolic array
START_US = 2.0

question = json.load(sys.stdin)
kind, points = question["kind"], question["points"]


def gemm_us(rows: int) -> float:
    """Return the time of a product of ``rows`` rows: whole tiles are computed, weights are read once."""
    padded = -(-rows // TILE) * TILE
    compute_s = 2 * padded * question["n"] * question["k"] / (0.8 * PEAK_FLOPS)
    memory_s = (question["weight_bytes"] + rows * (question["n"] + question["k"]) * 2) / (0.85 * BANDWIDTH)
    return START_US + max(compute_s, memory_s) * 1e6


def decode_us(rows: int, context: int) -> float:
    """Return the time of attention of ``rows`` decodes: their keys and values are read once."""
    num_bytes = rows * (context + 1) * question["kv_bytes_per_token"]
    return START_US + num_bytes / (0.7 * BANDWIDTH) * 1e6


times = None
if kind == "gemm":
    times = [gemm_us(point["rows"]) for point in points]
elif question["operator"] == "attention_decode":
    times = [decode_us(point["rows"], point["context_tokens"]) for point in points]
json.dump({"time_us": times}, sys.stdout)
