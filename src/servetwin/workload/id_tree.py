"""Ids of a trace as runs, with the check that each id has one predecessor only."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError
from servetwin.workload.coarse import CoarseContents

_START = -1


class IdTree:
    """Collects the hash ids of requests as runs of consecutive ids.

    An id must stand for its tokens and everything before them, so it may follow one id only.
    """

    def __init__(self) -> None:
        self._before: dict[int, int] = {}
        """The predecessor of the first id of each run that was seen."""
        self._run_id = array("q")
        self._run_chunks = array("q")
        self._count: list[int] = []
        """How many runs each request has."""
        self._places: list[tuple[str, int]] = []

    def add(self, ids: NDArray[np.int64], offset: int, where: str) -> None:
        """Take the ids of the next request, each raised by ``offset``.

        Raises
        ------
        InputError
            If the first id of a run follows another id than it did before.
        """
        before, first, known = _START, 0, len(self._run_id)
        lasts = np.flatnonzero(ids[1:] - ids[:-1] != 1).tolist()
        for last in [*lasts, len(ids) - 1] if len(ids) else ():
            start = int(ids[first]) + offset
            if self._before.setdefault(start, before) != before:
                raise _two_predecessors(start, self._before[start], before, offset, where)
            before = start + last - first
            self._run_id.append(start)
            self._run_chunks.append(last + 1 - first)
            first = last + 1
        self._count.append(len(self._run_id) - known)
        self._places.append((where, offset))

    def contents(
        self, chunk_tokens: int, order: NDArray[np.int64], known: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> CoarseContents:
        """Return the contents of all requests that were added.

        Parameters
        ----------
        chunk_tokens
            Tokens per id.
        order
            Row of the workload ► number of the request as it was added.
        known, lengths
            Tokens that the ids cover, and prompt + output tokens, per row of the workload.

        Raises
        ------
        InputError
            If an id begins a run in one request and stands within a run of another.
        """
        count = np.array(self._count, dtype=np.int64)
        first = np.cumsum(count) - count
        run_id, run_chunks = (np.array(values, dtype=np.int64) for values in (self._run_id, self._run_chunks))
        self._check_within(run_id, run_chunks, first)
        return CoarseContents(chunk_tokens, run_id, run_chunks, first[order], count[order], known, lengths)

    def _check_within(self, run_id: NDArray[np.int64], run_chunks: NDArray[np.int64], first: NDArray[np.int64]) -> None:
        """Refuse a run whose first id stands within another run: it follows its own number less one there."""
        order = np.argsort(run_id, kind="stable")
        starts = run_id[order]
        ends = np.maximum.accumulate((run_id + run_chunks)[order]) if len(order) else starts
        smaller = np.searchsorted(starts, run_id, side="left") - 1
        wrong = np.flatnonzero((smaller >= 0) & (ends[np.maximum(smaller, 0)] > run_id)) if len(order) else order
        if len(wrong):
            row = int(wrong[0])
            where, offset = self._places[int(np.searchsorted(first, row, side="right")) - 1]
            number = int(run_id[row])
            raise _two_predecessors(number, number - 1, self._before[number], offset, where)


def _two_predecessors(number: int, known: int, before: int, offset: int, where: str) -> InputError:
    other, here = (f"id {one - offset}" if one != _START else "the start" for one in (known, before))
    return InputError(
        f"hash_ids has id {number - offset} behind {here}, elsewhere it stands behind {other}; "
        "an id must stand for its tokens and all before them",
        where=where,
    )
