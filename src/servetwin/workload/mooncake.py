"""Mooncake's traces (FAST'25) as workloads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError
from servetwin.workload.base import Workload
from servetwin.workload.files import read_text
from servetwin.workload.id_tree import IdTree
from servetwin.workload.limits import MAX_NS, MAX_SECONDS, MAX_TOKENS
from servetwin.workload.trace_lines import check_keys, decode, hash_ids, integer

CHUNK_TOKENS = 512
"""Tokens per hash id."""

_KEYS = frozenset({"timestamp", "input_length", "output_length", "hash_ids"})
_NS_PER_MS = 1_000_000
_MAX_MS = MAX_SECONDS * 1000


class MooncakeSource:
    """A trace of Mooncake: one JSON object per line with ``timestamp`` (ms), ``input_length``, ``output_length`` and
    ``hash_ids``, one per 512 tokens of the prompt, the last one perhaps for fewer.

    Recorded times are ticks of 3 s. Requests of one tick are spread evenly over it, up to the next timestamp.

    Parameters
    ----------
    path
        The file; ``.gz`` is unpacked.
    limit
        Read only so many lines.
    sessions_per_s
        Mean rate of requests (the trace names no sessions, so each is one): all times are stretched alike. As recorded
        where left out.
    tick_s
        Over how many seconds, at most, requests of one timestamp are spread; 0 leaves them together.
    """  # noqa: D205

    def __init__(
        self, path: str | Path, limit: int | None = None, sessions_per_s: float | None = None, tick_s: float = 3.0
    ) -> None:
        self.path = Path(path)
        self.limit = limit
        self.sessions_per_s = sessions_per_s
        self.tick_s = tick_s

    def build(self, seed: int) -> Workload:
        """Return the trace's requests; the seed changes nothing.

        Raises
        ------
        InputError
            If the file cannot be read, or a line is wrong; it names the file, the line, the key and what is allowed.
        """
        tree = IdTree()
        numbers = self._read(tree)
        order = np.argsort(numbers[:, 0], kind="stable")
        sorted_notice = [] if (np.diff(order) > 0).all() else ["requests were sorted by timestamp"]
        timestamp_ns, prompt, output = (numbers[order, column] for column in range(3))
        arrival_ns, notices = self._arrivals(timestamp_ns * _NS_PER_MS)
        return Workload(
            arrival_ns=arrival_ns,
            prompt_tokens=prompt.copy(),
            output_tokens=output.copy(),
            contents=tree.contents(CHUNK_TOKENS, order, prompt, prompt + output),
            source=str(self.path),
            notices=[f"{self.path}: {notice}" for notice in sorted_notice + notices],
        )

    def _read(self, tree: IdTree) -> NDArray[np.int64]:
        """Return timestamp (ms), prompt and output tokens per line, shape ``(n, 3)``."""
        numbers: list[tuple[int, int, int]] = []
        for line, text in enumerate(read_text(self.path).split("\n"), start=1):
            if self.limit is not None and len(numbers) == self.limit:
                break
            if text and not text.isspace():
                numbers.append(_request(text, f"{self.path}:{line}", tree))
        if not numbers:
            raise InputError("the workload is empty: the file has no request", where=str(self.path))
        return np.array(numbers, dtype=np.int64)

    def _arrivals(self, timestamp_ns: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[str]]:
        """Return arrival times from ascending timestamps, and what was done to them."""
        notices = []
        arrival_ns = spread(timestamp_ns, round(self.tick_s * 1e9))
        if (moved := int((arrival_ns != timestamp_ns).sum())) > 0:
            notices.append(
                f"recorded times are ticks; the requests of a tick were spread evenly over at most {self.tick_s:g} s "
                f"({moved} of {len(arrival_ns)} moved)"
            )
        if self.sessions_per_s is not None:
            arrival_ns = self._stretched(arrival_ns)
            notices.append(f"times were stretched to {self.sessions_per_s:g} requests/s on average")
        return arrival_ns, notices

    def _stretched(self, arrival_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        assert self.sessions_per_s is not None
        span_ns = int(arrival_ns[-1] - arrival_ns[0])
        wanted_ns = (len(arrival_ns) - 1) / self.sessions_per_s * 1e9
        if wanted_ns > MAX_NS:
            raise InputError(f"sessions_per_s {self.sessions_per_s:g} is too low: the last request would come too late")
        if span_ns == 0:
            raise InputError(
                "all requests have one timestamp; sessions_per_s cannot stretch that", where=str(self.path)
            )
        stretched: NDArray[np.int64] = np.rint((arrival_ns - arrival_ns[0]) * (wanted_ns / span_ns)).astype(np.int64)
        return stretched


def _request(text: str, where: str, tree: IdTree) -> tuple[int, int, int]:
    record = decode(text, where)
    check_keys(record, _KEYS, where)
    timestamp = integer(record, "timestamp", 0, _MAX_MS, where)
    prompt = integer(record, "input_length", 1, MAX_TOKENS, where)
    output = integer(record, "output_length", 1, MAX_TOKENS, where)
    chunks = -(-prompt // CHUNK_TOKENS)
    ids = hash_ids(record, chunks, f"one per {CHUNK_TOKENS} tokens of the {prompt} of input_length", where)
    tree.add(ids, 0, where)
    return timestamp, prompt, output


def spread(times_ns: NDArray[np.int64], tick_ns: int) -> NDArray[np.int64]:
    """Return ascending times with equal ones spread evenly up to the next time, at most over ``tick_ns``.

    The i-th of k requests at one time comes i / k of the way to the next time.
    """
    first = np.flatnonzero(np.diff(times_ns, prepend=-1))
    count = np.diff(first, append=len(times_ns))
    room = np.minimum(np.diff(times_ns[first], append=times_ns[-1] + tick_ns), tick_ns)
    place = np.arange(len(times_ns)) - np.repeat(first, count)
    moved: NDArray[np.int64] = times_ns + np.repeat(room, count) * place // np.repeat(count, count)
    return moved
