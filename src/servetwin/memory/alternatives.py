"""What to say of a model that does not fit: the numbers, and the nearest changes with which it would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from servetwin.core.units import GIB
from servetwin.memory.kv_capacity import Sizing

SMALLER_FORMATS = ("fp8", "awq")
"""Formats to propose for the weights, the larger first."""


def does_not_fit(sizing: Sizing) -> str:
    """Return the message."""
    capacity = sizing.capacity
    parts = ", ".join(
        f"{name} {num_bytes / GIB:.2f}" for name, num_bytes in capacity.parts.items() if num_bytes >= GIB / 200
    )
    missing = capacity.weight_bytes + capacity.reserve_bytes + capacity.block_bytes - capacity.memory_bytes
    found = [*alternatives(sizing)]
    advice = "; or ".join(found) if found else "no tensor_parallel_size up to 64 and no smaller format makes it fit"
    return (
        f"{sizing.architecture.name} does not fit on {sizing.device.name} with tensor_parallel_size {sizing.ranks}: of "
        f"{capacity.memory_bytes / GIB:.2f} GiB that the engine may use per device, weights take "
        f"{capacity.weight_bytes / GIB:.2f} GiB and the rest {capacity.reserve_bytes / GIB:.2f} GiB ({parts}), "
        f"which is {missing / GIB:.2f} GiB too much for one KV block of {capacity.block_bytes} bytes; {advice}"
    )


def alternatives(sizing: Sizing) -> Iterator[str]:
    """Yield the smallest change of each kind with which at least one block fits."""
    for ranks in sizing.architecture.tensor_parallel_sizes():
        wider = replace(sizing.parallelism, tensor=ranks, decode_context=1)
        if ranks > sizing.ranks and _fits(replace(sizing, parallelism=wider)):
            yield f"it fits from tensor_parallel_size {ranks} on"
            break
    yield from _smaller_weights(sizing)
    yield from _smaller_steps(sizing)


def _smaller_weights(sizing: Sizing) -> Iterator[str]:
    own = sizing.architecture.weight_bytes(dtype=sizing.dtype, ranks=sizing.parallelism)
    for name in SMALLER_FORMATS:
        quantized = sizing.architecture.with_quantization(name)
        smaller = replace(sizing, architecture=quantized, dtype=None, kv_cache_dtype=_kv_dtype(sizing))
        if smaller.capacity.weight_bytes < own and _fits(smaller):
            yield f"with weights in {quantized.weight_format('mlp').name}"
            break


def _smaller_steps(sizing: Sizing) -> Iterator[str]:
    step = sizing.step
    tokens = step.max_num_batched_tokens // 2
    while tokens >= max(step.num_sequences, 1):
        if _fits(replace(sizing, step=replace(step, max_num_batched_tokens=tokens))):
            yield f"with max_num_batched_tokens {tokens}"
            return
        tokens //= 2
    sequences = step.num_sequences // 2
    while sequences >= 1:
        if _fits(replace(sizing, step=replace(step, max_num_seqs=sequences))):
            yield f"with max_num_seqs {sequences}"
            return
        sequences //= 2


def _kv_dtype(sizing: Sizing) -> str:
    """Return the KV cache's format, by name, so that it does not follow the weights'."""
    if sizing.kv_cache_dtype or sizing.dtype:
        return sizing.kv_cache_dtype or sizing.dtype or ""
    return sizing.architecture.kv_cache_dtype


def _fits(sizing: Sizing) -> bool:
    return sizing.capacity.num_blocks >= 1
