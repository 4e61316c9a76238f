"""Timing calls: by CUDA graphs and events on a GPU, by the clock on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

Call = Callable[[], Any]


def sequence_of(functions: Sequence[Call], calls: int) -> list[Call]:
    """Return ``calls`` functions, going round through those that there are."""
    return list(islice(cycle(functions), calls))


def host_run(functions: Sequence[Call], calls: int) -> Callable[[], float]:
    """Return a function that makes the calls one after the other and returns the seconds they took, for a CPU."""
    turns = cycle(functions)

    def run_s() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            next(turns)()
        return time.perf_counter() - start

    return run_s


def eager_run(torch: Any, functions: Sequence[Call], calls: int) -> Callable[[], float]:
    """Return a function that launches the calls one by one and returns the seconds until the last has ended."""
    sequence = sequence_of(functions, calls)

    def run_s() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for function in sequence:
            function()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    return run_s


def graph_run(torch: Any, functions: Sequence[Call], calls: int) -> Callable[[], float]:
    """Return a function that replays the calls as one CUDA graph and returns the seconds that the device was busy.

    As in a server that replays a captured step, launches from the host take no part in it.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries allocate their workspaces at the first call, outside the capture
        for function in functions:
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for function in sequence_of(functions, calls):
            function()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def run_s() -> float:
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000

    return run_s


def replay_run(torch: Any, function: Call, calls: int) -> Callable[[], float]:
    """Return a function that replays a graph of ``calls`` equal calls and returns the seconds by the host's clock.

    Unlike `graph_run` it holds what the host pays for the launch of the graph.
    """
    device_run = graph_run(torch, [function], calls)

    def run_s() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        device_run()
        return time.perf_counter() - start

    return run_s
