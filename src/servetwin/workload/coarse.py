"""Contents of traces that name prefixes by coarse hashes: one id per so many tokens of the prompt."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import overload

import numpy as np
from numpy.typing import NDArray

from servetwin.workload.base import Contents, Workload

_STRIDE = 2**24
"""More than the number of blocks that a request can have."""

_UNKNOWN = 2**61
"""Keys from here on belong to blocks whose tokens are not known, so that no other request has them."""


class KeyRuns(Sequence[int]):
    """Keys of blocks, kept as a few arithmetic runs: as long as a prompt has runs, not blocks.

    Parameters
    ----------
    runs
        Ranges, one behind the other; empty ones are dropped.
    """

    __slots__ = ("_ends", "runs")

    def __init__(self, runs: Sequence[range]) -> None:
        self.runs = [run for run in runs if run]
        self._ends: list[int] = []
        end = 0
        for run in self.runs:
            end += len(run)
            self._ends.append(end)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> KeyRuns: ...

    def __getitem__(self, index: int | slice) -> int | KeyRuns:
        if isinstance(index, slice):
            return self._part(*index.indices(len(self)))
        if index < 0:
            index += len(self)
        number = bisect_right(self._ends, index)
        if index < 0 or number == len(self._ends):
            raise IndexError("no such block")
        return self.runs[number][index - self._ends[number]]  # counted from the run's end

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self.runs)

    def _part(self, first: int, behind: int, step: int) -> KeyRuns:
        if step != 1:
            raise ValueError("runs of keys are sliced with step 1")
        starts = [end - len(run) for end, run in zip(self._ends, self.runs, strict=True)]
        pairs = zip(starts, self.runs, strict=True)
        return KeyRuns([run[max(first - start, 0) : max(behind - start, 0)] for start, run in pairs])


def keys_of(contents: Contents, request: int, block_size: int) -> Sequence[int]:
    """Return a request's block keys, as runs where the contents know them as runs (a method ``key_runs``)."""
    key_runs: Callable[[int, int], Sequence[int]] | None = getattr(contents, "key_runs", None)
    return (key_runs or contents.block_keys)(request, block_size)


def answers_are_distinct(workload: Workload) -> bool:
    """Return whether no two requests share a block that holds tokens of an answer, where the contents can say so.

    They do by a method ``distinct_behind``.
    """
    distinct_behind: Callable[[NDArray[np.int64]], bool] | None = getattr(workload.contents, "distinct_behind", None)
    return distinct_behind is not None and distinct_behind(workload.prompt_tokens)


class CoarseContents:
    """Contents known by one id per ``chunk_tokens`` tokens of the prompt.

    An id stands for its tokens **and everything before them** (the ids of a trace form a tree). So the key of a block
    of any size is (id of the chunk that holds the block's last token, place among the blocks that end in that chunk):
    blocks that end in one chunk share its fate. Where the block size divides ``chunk_tokens``, or is a multiple of it,
    that is exact; else a block that ends in the middle of two chunks that differ counts as different although its own
    part of them may be equal. Blocks that reach beyond the known ids (an answer's, or a prompt's rest) are
    like no other's.

    Parameters
    ----------
    chunk_tokens
        Tokens per id.
    run_id, run_chunks
        A table of runs: first id (below 2**36) and number of ids, each one more than the one before, shape ``(m,)``.
    first, count
        The rows of the table that are each request's ids, shape ``(n,)``.
    known_tokens
        Tokens from the start on that the ids cover, shape ``(n,)``; the last id may cover fewer than a whole chunk.
    lengths
        Prompt + output tokens, shape ``(n,)``.
    """

    def __init__(
        self,
        chunk_tokens: int,
        run_id: NDArray[np.int64],
        run_chunks: NDArray[np.int64],
        first: NDArray[np.int64],
        count: NDArray[np.int64],
        known_tokens: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        self.chunk_tokens = chunk_tokens
        self._table = list(zip(run_id.tolist(), run_chunks.tolist(), strict=True))
        self._rows = list(zip(first.tolist(), (first + count).tolist(), strict=True))
        self._known_tokens = known_tokens
        self._known_and_length = list(zip(known_tokens.tolist(), lengths.tolist(), strict=True))

    def block_keys(self, request: int, block_size: int) -> Sequence[int]:
        """Return one key per full block of prompt + output of ``request``."""
        return list(self.key_runs(request, block_size))

    def key_runs(self, request: int, block_size: int) -> KeyRuns:
        """Return the keys of `block_keys` as runs."""
        known_tokens, length = self._known_and_length[request]
        known = known_tokens // block_size
        chunk = self.chunk_tokens
        if chunk % block_size == 0:
            runs = self._of_small_blocks(request, chunk // block_size, known)
        elif block_size % chunk == 0:
            runs = self._of_large_blocks(request, block_size // chunk, known)
        else:
            runs = self._of_any_blocks(request, block_size, known)
        start = _UNKNOWN + request * _STRIDE
        runs.append(range(start + known, start + length // block_size))
        return KeyRuns(runs)

    def distinct_behind(self, tokens: NDArray[np.int64]) -> bool:
        """Return whether no two requests share a block that reaches beyond each's first ``tokens``, shape ``(n,)``."""
        return bool((self._known_tokens <= tokens).all())

    def _runs(self, request: int) -> list[tuple[int, int]]:
        first, behind = self._rows[request]
        return self._table[first:behind]

    def _of_small_blocks(self, request: int, per_chunk: int, known: int) -> list[range]:
        runs = []
        left = known
        for number, chunks in self._runs(request):
            blocks = min(chunks * per_chunk, left)
            runs.append(range(number * per_chunk, number * per_chunk + blocks))
            left -= blocks
        return runs

    def _of_large_blocks(self, request: int, chunks_per_block: int, known: int) -> list[range]:
        """Return the ids of each block's last chunk."""
        runs = []
        before = 0
        left = known
        for number, chunks in self._runs(request):
            skipped = chunks_per_block - 1 - before % chunks_per_block
            run = range(number + skipped, number + chunks, chunks_per_block)[:left]
            runs.append(run)
            left -= len(run)
            before += chunks
        return runs

    def _of_any_blocks(self, request: int, block_size: int, known: int) -> list[range]:
        parts = [np.arange(number, number + chunks, dtype=np.int64) for number, chunks in self._runs(request)]
        ids = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
        blocks = np.arange(known)
        chunk = ((blocks + 1) * block_size - 1) // self.chunk_tokens
        first_block = -(-(chunk * self.chunk_tokens + 1) // block_size) - 1
        per_chunk = -(-self.chunk_tokens // block_size)
        keys = ids[chunk] * per_chunk + blocks - first_block
        return _as_runs(keys)


def _as_runs(keys: NDArray[np.int64]) -> list[range]:
    """Return integers as runs of consecutive ones."""
    starts = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 2) != 1)
    lengths = np.diff(starts, append=len(keys))
    return [range(start, start + length) for start, length in zip(keys[starts].tolist(), lengths.tolist(), strict=True)]
