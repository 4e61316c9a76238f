"""The workloads of the measured runs are read as FORMATS describes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from servetwin.workload.lss_jsonl import LssJsonlSource

pytestmark = pytest.mark.measured


@pytest.mark.parametrize(
    ("name", "requests", "prompt_tokens", "output_tokens"),
    [
        ("sharegpt-llama-3.1-8b-300-sps10", 300, 257_239, 195_753),
        ("sharegpt-qwen3-32b-300-sps10", 300, 258_691, 199_486),
    ],
)
def test_sums_of_the_sharegpt_files(
    reference: Path, name: str, requests: int, prompt_tokens: int, output_tokens: int
) -> None:
    """Requests and tokens add up to the published sums, nothing had to be sorted, and token ids are known."""
    workload = LssJsonlSource(reference / "llmservingsim" / "workloads" / f"{name}.jsonl").build(0)
    sums = (len(workload), int(workload.prompt_tokens.sum()), int(workload.output_tokens.sum()))
    assert sums == (requests, prompt_tokens, output_tokens)
    assert workload.notices == []
    assert workload.contents is not None


def test_every_file_is_read(reference: Path) -> None:
    """All workload files beside the reference data are read without an error or a notice."""
    folders = ("workloads", "ispass26/workloads")
    paths = [path for folder in folders for path in sorted((reference / "llmservingsim" / folder).glob("*.jsonl"))]
    assert len(paths) >= 10
    for path in paths:
        workload = LssJsonlSource(path).build(0)
        assert len(workload) == sum(1 for line in path.read_text().splitlines() if line.strip())
        assert workload.notices == []
