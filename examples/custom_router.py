"""A router of one's own, used from Python: long prompts go to the first instance, short ones to the rest in turn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import servetwin
from servetwin.protocols import ClusterView, RequestView


class LongPromptsApart:
    """Keeps prompts of more than ``tokens`` tokens on the first candidate."""

    reads: frozenset[str] = frozenset()

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._turn = 0

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Return the first candidate for a long prompt, else the next of the others."""
        if request.prompt_tokens > self._tokens or len(candidates) == 1:
            return int(candidates[0])
        self._turn += 1
        return int(candidates[1 + self._turn % (len(candidates) - 1)])


def main() -> None:
    """Compare it with round robin on the demo's scenario, with one replica more."""
    from servetwin.scenario.load import load_scenario

    base = load_scenario(Path(__file__).with_name("demo.yaml"), edits={"cluster.chat.replicas": 3})
    for router in ("round_robin", LongPromptsApart(tokens=500)):
        result = servetwin.simulate(base, edits={"router": router})
        name = router if isinstance(router, str) else type(router).__name__
        print(f"{name:>17}: TTFT p50 {result.summary['ttft_s']['p50'] * 1000:6.1f} ms, "
              f"p99 {result.summary['ttft_s']['p99'] * 1000:6.1f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
