"""The contract of a workload: requests as columns, and what their tokens are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from servetwin.core.registry import Registry

RELEASED_LATER = -1
"""``arrival_ns`` of a request that another request's end releases (its parent's, or a closed loop's)."""

NO_PARENT = -1


class Contents(Protocol):
    """What the tokens of each request are, as far as prefix caching needs to know."""

    def block_keys(self, request: int, block_size: int) -> Sequence[int]:
        """Return one key per full block of prompt + output of ``request`` (a row number).

        Two keys (of any two requests) are equal if and only if all tokens from the start of the sequence to the
        end of that block are equal. Keys are non-negative integers below 2**62.
        """
        ...


class DistinctContents:
    """Contents of requests that share nothing with each other."""

    _STRIDE = 2**24

    def __init__(self, lengths: NDArray[np.int64]) -> None:
        self._lengths = lengths

    def block_keys(self, request: int, block_size: int) -> Sequence[int]:
        """Return keys that no other request has."""
        first = request * self._STRIDE
        return range(first, first + int(self._lengths[request]) // block_size)


@dataclass(slots=True)
class Workload:
    """Requests as columns, one row per request, sorted by ``arrival_ns`` where that is known.

    Attributes
    ----------
    arrival_ns
        When a request arrives, shape ``(n,)``; ``RELEASED_LATER`` for one that waits for another's end. Known
        arrivals come first and ascend (stable order of the source on ties).
    prompt_tokens, output_tokens
        Lengths, at least 1, shape ``(n,)``.
    request_id
        A name per row, or None for the row numbers.
    session_id, model
        A name per row (None where a row has none), or None for the whole column.
    priority
        Smaller is served earlier (vLLM), shape ``(n,)``, or None.
    encoder_tokens
        How many of the prompt's tokens are embeddings of images (or sound) that an encoder makes, shape ``(n,)``; None:
        there are none.
    parent
        Row of the request whose end releases this one, ``NO_PARENT`` where none; always a smaller or greater row,
        never itself, or None for the whole column.
    delay_ns
        Time between the release (the end of the parent, or of the closed loop's previous item) and the arrival.
    concurrency
        Closed loop: how many items (a request, or a session with all its turns) are in flight at once. Rows with
        ``RELEASED_LATER`` and no parent are released in row order whenever an item ends; the first ``concurrency``
        of them arrive at ``delay_ns`` after time 0. None for an open loop.
    contents
        What the tokens are; None when no two requests share anything.
    source, notices
        Where it came from, and what a reader of the result should know ("arrivals were sorted").
    """

    arrival_ns: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    request_id: list[str] | None = None
    session_id: list[str | None] | None = None
    model: list[str | None] | None = None
    priority: NDArray[np.int64] | None = None
    parent: NDArray[np.int64] | None = None
    delay_ns: NDArray[np.int64] | None = None
    concurrency: int | None = None
    contents: Contents | None = None
    encoder_tokens: NDArray[np.int64] | None = None
    source: str = ""
    notices: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.arrival_ns)


class WorkloadSource(Protocol):
    """Something that makes a workload: a file's reader or a generator."""

    def build(self, seed: int) -> Workload:
        """Return the workload; equal seeds give equal workloads."""
        ...


workload_sources: Registry[WorkloadSource] = Registry("workload source")
