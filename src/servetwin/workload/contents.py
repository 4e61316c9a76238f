"""What the tokens of requests are, and the keys of their blocks: from token ids, or from chains of segments."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

_STRIDE = 2**24
"""More than the number of blocks that a request can have."""

_UNKNOWN = 2**61
"""Keys from here on belong to blocks whose tokens are not known, so that no other request has them."""

_TOKEN_BYTES = 4


@runtime_checkable
class HasTokenIds(Protocol):
    """Contents that can say their tokens, to be written to a file."""

    def token_ids(self, request: int) -> Sequence[int]:
        """Return the known tokens of prompt + output from the start on; empty where none is known."""
        ...


class TokenContents:
    """Contents given as token ids.

    A block's key is found by interning (key of the block before, the block's tokens), so equal keys mean equal tokens
    exactly; nothing is hashed away.

    Parameters
    ----------
    tokens
        Per request the tokens that are known, from the start of the prompt on: none, the prompt's, or the prompt's and
        the output's.
    lengths
        Prompt + output tokens, shape ``(n,)``. Blocks that reach beyond the known tokens are like no other's.
    """

    def __init__(self, tokens: Sequence[array[int]], lengths: NDArray[np.int64]) -> None:
        self._tokens = tokens
        self._lengths = lengths
        self._interned: dict[int, dict[tuple[int, bytes], int]] = {}

    def block_keys(self, request: int, block_size: int) -> Sequence[int]:
        """Return one key per full block of prompt + output of ``request``."""
        raw = self._tokens[request].tobytes()
        interned = self._interned.setdefault(block_size, {})
        width = block_size * _TOKEN_BYTES
        known = len(raw) // width
        keys: list[int] = []
        key = -1
        for start in range(0, known * width, width):
            key = interned.setdefault((key, raw[start : start + width]), len(interned))
            keys.append(key)
        first = _UNKNOWN + request * _STRIDE
        keys.extend(range(first + known, first + int(self._lengths[request]) // block_size))
        return keys

    def token_ids(self, request: int) -> Sequence[int]:
        """Return the known tokens of ``request``."""
        return self._tokens[request]


class SegmentContents:
    """Contents made of segments (a system prompt, a user's text, an answer) that requests share.

    A request is a chain of segments. A chain id stands for a segment **and everything before it**: two requests have
    the same chain id at some place if and only if they are equal from the start to the end of that segment, and
    segments with different chain ids differ in their first token. So the key of block b is (chain id of the segment
    that holds the block's last token, b).

    Parameters
    ----------
    chain, end
        A table of segments: chain id (below 2**37) and offset of the segment's end in the sequence, shape ``(m,)``.
    first, count
        The rows of the table that are each request's segments, shape ``(n,)``. Requests may share rows.
    """

    def __init__(
        self, chain: NDArray[np.int64], end: NDArray[np.int64], first: NDArray[np.int64], count: NDArray[np.int64]
    ) -> None:
        self._chain = chain
        self._end = end
        self._first = first
        self._count = count

    def block_keys(self, request: int, block_size: int) -> Sequence[int]:
        """Return one key per full block of prompt + output of ``request``."""
        keys: list[int] = []
        block = 0
        for chain, end in self._segments(request):
            behind = end // block_size
            if behind > block:
                keys.extend(range(chain * _STRIDE + block, chain * _STRIDE + behind))
                block = behind
        return keys

    def token_ids(self, request: int) -> Sequence[int]:
        """Return tokens that repeat the segment's chain id, which makes prefixes equal where chains are."""
        tokens = array("q")
        for chain, end in self._segments(request):
            tokens.extend(array("q", [chain]) * (end - len(tokens)))
        return tokens

    def _segments(self, request: int) -> Sequence[tuple[int, int]]:
        rows = slice(first := int(self._first[request]), first + int(self._count[request]))
        return list(zip(self._chain[rows].tolist(), self._end[rows].tolist(), strict=True))
