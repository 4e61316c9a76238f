"""The options of workloads, as a scenario reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from workload_helpers import ADAPTER, options

from servetwin.workload.csv_file import CsvSource
from servetwin.workload.lss_jsonl import LssJsonlSource

README_EXAMPLE = """
{kind: synthetic, requests: 1000, arrivals: {kind: poisson, rate_per_s: 8},
 prompt_tokens: {kind: lognormal, mean: 220, sigma: 1.0}, output_tokens: {kind: lognormal, mean: 200, sigma: 0.8}}
"""


def test_the_example_is_read_and_written_back() -> None:
    """The scenario's example is read, and what is dumped reads as the same."""
    read = ADAPTER.validate_python(yaml.safe_load(README_EXAMPLE))
    assert len(read.source().build(1)) == 1000
    assert ADAPTER.validate_python(read.model_dump(mode="json", exclude_none=True)) == read


@pytest.mark.parametrize(("kind", "source"), [("lss_jsonl", LssJsonlSource), ("csv", CsvSource)])
def test_files(kind: str, source: type[Any], tmp_path: Path) -> None:
    """A file's kind gives its reader, and a relative path counts from the given folder."""
    read = ADAPTER.validate_python({"kind": kind, "path": "w", "limit": 3}).at(tmp_path).source()
    assert isinstance(read, source)
    assert (read.path, read.limit) == (tmp_path / "w", 3)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"requests": 0}, "greater than or equal to 1"),
    ({"requests": 10**9}, "less than or equal to 20000000"),
    ({"requests": None}, "requests missing: poisson arrivals have no end of their own"),
    ({"requests": True}, "valid integer"),
    ({"arrivals": {"kind": "poisson", "rate_per_s": 0}}, "greater than 0"),
    ({"arrivals": {"kind": "poisson", "rate_per_s": float("nan")}}, "finite number"),
    ({"arrivals": {"kind": "poisson", "rate_per_s": "8"}}, "valid number"),
    ({"arrivals": {"kind": "poisson", "rate": 8}}, "Extra inputs are not permitted"),
    ({"arrivals": {"kind": "gamma", "rate_per_s": 8, "cv": 0}}, "greater than or equal to 0.001"),
    ({"arrivals": {"kind": "poison", "rate_per_s": 8}}, "does not match any of the expected tags"),
    ({"arrivals": {"kind": "stages", "stages": []}}, "at least 1 item"),
    ({"arrivals": {"kind": "stages", "stages": [{"rate_per_s": 1e6, "duration_s": 1e6}]}}, "allowed: 1 to 20000000"),
    ({"arrivals": {"kind": "pulses", "pulses": 10**5, "requests_per_pulse": 10**5, "gap_s": 1}}, "up to 20000000"),
    ({"arrivals": {"kind": "closed_loop", "concurrency": 0}}, "greater than or equal to 1"),
    ({"prompt_tokens": 0}, "greater than or equal to 1"),
    ({"prompt_tokens": 1.5}, "valid integer"),
    ({"prompt_tokens": 10**9}, "less than or equal to 8388608"),
    ({"prompt_tokens": {"kind": "lognormal", "mean": 220, "sigma": -1}}, "greater than or equal to 0"),
    ({"prompt_tokens": {"kind": "lognormal", "mean": 220, "sigma": 50}}, "less than or equal to 5"),
    ({"prompt_tokens": {"kind": "uniform", "min": 9, "max": 3}}, "min 9 is greater than max 3"),
    ({"output_tokens": None}, "output_tokens missing"),
    ({"sessions": {"count": 3, "turns": 2}}, "leave out requests"),
    ({"requests": None, "sessions": {"turns": 2}}, "sessions.count missing"),
    ({"shared_prefix": {}}, "leave out prompt_tokens, output_tokens"),
    ({"shared_prefix": {"num_groups": 10**5, "num_prompts_per_group": 10**5}}, "allowed: up to 20000000"),
    ({"model": {"a": -1.0}}, "greater than or equal to 0"),
    ({"model": {"a": 0, "b": 0}}, "positive sum"),
    ({"priority": {}}, "positive sum"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_options_are_refused(changes: dict[str, Any], message: str) -> None:
    """An option of the wrong type or size is refused, and the message says what is allowed."""
    with pytest.raises(ValidationError, match=message):
        options(**changes)
