"""What several tests of workloads need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from servetwin.workload.base import Workload
from servetwin.workload.options import SyntheticOptions, WorkloadOptions

ADAPTER: TypeAdapter[Any] = TypeAdapter(WorkloadOptions)

Record = dict[str, Any]


def options(**changes: Any) -> SyntheticOptions:
    """Return small synthetic options with some keys changed (None takes one away)."""
    keys: Record = {
        "kind": "synthetic",
        "requests": 200,
        "arrivals": {"kind": "poisson", "rate_per_s": 8},
        "prompt_tokens": {"kind": "lognormal", "mean": 220, "sigma": 1.0},
        "output_tokens": {"kind": "uniform", "min": 5, "max": 50},
    } | changes
    read: SyntheticOptions = ADAPTER.validate_python({key: value for key, value in keys.items() if value is not None})
    return read


def build(seed: int = 1, **changes: Any) -> Workload:
    """Return the workload of `options`."""
    return options(**changes).source().build(seed)


def write_lines(path: Path, *records: Record | str) -> Path:
    """Write records (or raw text) as lines of a file."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in records))
    return path


def flat(arrival_ns: int = 0, prompt: int = 4, output: int = 2, **more: Any) -> Record:
    """Return a request of LLMServingSim's format."""
    return {"input_toks": prompt, "output_toks": output, "arrival_time_ns": arrival_ns} | more


def sub(prompt: int = 4, output: int = 2, **more: Any) -> Record:
    """Return a request of a session."""
    return {"input_toks": prompt, "output_toks": output} | more


def shared_prefix_lengths(workload: Workload, first: int, second: int, block_size: int) -> int:
    """Return how many leading blocks two requests share; later keys must then all differ."""
    assert workload.contents is not None
    pairs = zip(
        workload.contents.block_keys(first, block_size), workload.contents.block_keys(second, block_size), strict=False
    )
    equal = [one == other for one, other in pairs]
    shared = equal.index(False) if False in equal else len(equal)
    assert not any(equal[shared:])
    return shared
