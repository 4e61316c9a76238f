"""How a server pads the tokens of a step before it computes layers over tokens."""

from __future__ import annotations

from collections.abc import Callable

CUDA_GRAPH_LIMIT = 512
TPU_MIN_TOKENS = 16
TPU_MIN_SEQUENCES = 8


def power_of_two(count: int, least: int) -> int:
    """Return the smallest power of two that is at least ``count`` and ``least`` (vLLM on TPU)."""
    return max(least, 1 << (count - 1).bit_length()) if count else least


def cuda_graph(tokens: int) -> int:
    """Return the size of the CUDA graph that vLLM V1 runs ``tokens`` tokens in; above its largest there is no padding.

    vLLM captures 1, 2, 4, multiples of 8 up to 256 and of 16 up to 512.
    """
    if tokens > CUDA_GRAPH_LIMIT or tokens <= 2:
        return tokens
    if tokens <= 4:
        return 4
    step = 8 if tokens <= 256 else 16
    return -(-tokens // step) * step


def padding(kind: str) -> tuple[Callable[[int], int], Callable[[int], int]]:
    """Return the functions that pad tokens and sequences: ``none``, ``power_of_two`` or ``cuda_graph``."""
    if kind == "power_of_two":
        return lambda tokens: power_of_two(tokens, TPU_MIN_TOKENS), lambda sequences: power_of_two(
            sequences, TPU_MIN_SEQUENCES
        )
    if kind == "cuda_graph":
        return cuda_graph, lambda sequences: sequences
    return lambda tokens: tokens, lambda sequences: sequences
