"""The page on workloads shows what works."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
import yaml
from workload_helpers import ADAPTER

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "workloads.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("example", blocks("yaml"))
def test_every_example_makes_requests(example: str, tmp_path: Path) -> None:
    """Each YAML block of the page is a workload that can be built, with the files that the page shows."""
    (tmp_path / "workload.jsonl").write_text(blocks("json")[0])
    (tmp_path / "workload.csv").write_text(blocks("csv")[0])
    (tmp_path / "conversation_trace.jsonl").write_text(blocks("json")[1])
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "trace_1.json").write_text(blocks("json")[2])
    lengths = b"num_prefill_tokens,num_decode_tokens\n74,918\n290,905\n"
    (tmp_path / "sharegpt_8k_filtered_stats_llama2_tokenizer.csv.gz").write_bytes(gzip.compress(lengths))
    read = ADAPTER.validate_python(yaml.safe_load(example)["workload"])
    assert len(read.at(tmp_path).source().build(1)) > 1


def test_the_page_has_an_example_of_every_kind() -> None:
    """Every kind of arrivals, lengths and sources stands in an example or a table."""
    sources = ["synthetic", "lss_jsonl", "csv", "mooncake", "claude_code"]
    arrivals = ["constant", "poisson", "gamma", "stages", "pulses", "closed_loop"]
    distributions = ["fixed", "uniform", "lognormal", "normal", "empirical", "exponential"]
    assert [kind for kind in sources + arrivals + distributions if f"kind: {kind}" not in PAGE] == []
