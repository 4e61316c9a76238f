"""Ctrl-C anywhere in the loop: the run stops between two events, and what was finished stands."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest

import servetwin
from servetwin.core.interrupts import interrupts_handled

SCENARIO = {
    "cluster": [
        {
            "name": "toy",
            "replicas": 2,
            "engine": {"num_gpu_blocks_override": 40, "max_num_seqs": 8, "max_num_batched_tokens": 64},
            "step": {"model": "affine", "base_ns": 1_000_000, "per_token_ns": 10_000},
        }
    ],
    "router": {"policy": "least_outstanding"},
    "workload": {
        "kind": "synthetic",
        "requests": 30,
        "arrivals": {"kind": "poisson", "rate_per_s": 200},
        "prompt_tokens": {"kind": "uniform", "min": 1, "max": 100},
        "output_tokens": {"kind": "uniform", "min": 1, "max": 60},
    },
}


class PressAtLine:
    """A tracer that presses Ctrl-C at the n-th line of the engine and the cluster, from the loop's start on."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.begun = False

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> Any:
        """Trace on, and press when it is time."""
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("servetwin.engine.", "servetwin.cluster.")):
            return None
        self.begun = self.begun or frame.f_code.co_name == "_serve_all"
        if event == "line" and self.begun:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)
        return self


@pytest.mark.parametrize("number", [*range(1, 201, 3), 1501, 5003, 12011])
def test_ctrl_c_at_any_line_leaves_a_whole_state(number: int) -> None:
    """Wherever Ctrl-C falls, the result can be told, and its completed requests are those of the whole run."""
    whole = servetwin.simulate(SCENARIO).requests
    before = sys.gettrace()
    sys.settrace(PressAtLine(number))
    try:
        result = servetwin.simulate(SCENARIO)
    finally:
        sys.settrace(before)
    assert result.summary["incomplete"] is True
    done = np.array([state == "completed" for state in result.requests["state"]])
    assert not done.all()
    for name in ("first_token_s", "finish_s", "preemptions", "queue_s"):
        assert np.array_equal(np.asarray(result.requests[name])[done], np.asarray(whole[name])[done]), name
    assert result.summary["requests"]["by_state"]["completed"] == done.sum()
    assert len(result.timeline["time_s"]) > 0
    assert result.limit.endswith(".")


def test_the_second_ctrl_c_stops_at_once_and_blocks_may_be_nested() -> None:
    """The first one calls the innermost block's reaction; the second raises; the handler of before comes back."""
    before = signal.getsignal(signal.SIGINT)
    said: list[str] = []
    with interrupts_handled(lambda: said.append("outer")) as outer:
        with interrupts_handled(lambda: said.append("inner")) as inner:
            signal.raise_signal(signal.SIGINT)
            assert (said, inner.count, outer.count) == (["inner"], 1, 0)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert said == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_program_that_handles_ctrl_c_keeps_its_handler() -> None:
    """Where somebody else's handler is set, it stays."""
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with interrupts_handled(lambda: seen.append(-1)):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]
