"""CUDA graphs: the numbers of tokens for which an engine records them, to which it pads a step."""

from __future__ import annotations

import numpy as np

from servetwin.step.kernels import Numbers

CAPTURED_SIZES = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""Numbers of tokens for which vLLM records CUDA graphs; a step is padded to the next of them."""

LARGEST = CAPTURED_SIZES[-1]

PADDED = np.array(CAPTURED_SIZES)[np.searchsorted(CAPTURED_SIZES, np.arange(LARGEST + 1))]
"""The recorded size for each number of tokens."""

_PADDED: list[int] = PADDED.tolist()


def padded(rows: Numbers) -> Numbers:
    """Return the tokens of the graphs that run steps of so many; as many where none is large enough."""
    return np.where(rows <= LARGEST, PADDED[np.minimum(rows, LARGEST).astype(int)], rows)


def padded_tokens(num_tokens: int) -> int:
    """Return `padded` of one number."""
    return _PADDED[num_tokens] if num_tokens <= LARGEST else num_tokens
