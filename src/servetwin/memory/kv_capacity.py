"""How many KV blocks an instance has: device memory x utilisation, less the weights and a reserve."""

from __future__ import annotations

from dataclasses import dataclass

from servetwin.core.errors import InputError
from servetwin.core.units import GIB
from servetwin.hardware.base import Device
from servetwin.llm.base import ModelArchitecture

DEFAULT_RESERVE_BYTES = 3 * GIB // 2
"""What a rank keeps for all else: the device driver's and the process's context, the peak activations of vLLM's
profiling step, buffers of collectives, CUDA graphs. Measured with Llama-3.1-8B in bf16 and 2,048 batched tokens: vLLM
0.13, eager, on an RTX A6000 left 27.04 GiB for KV, so 1.2 GiB were reserved; vLLM 0.19 on an RTX 4090 had 2,588 blocks,
so 1.6 GiB. One figure for all until the capacity is worked out part by part."""


@dataclass(frozen=True, slots=True)
class KvCapacity:
    """The KV cache of one instance, and the figures that it follows from, each per rank.

    ``num_blocks`` is what vLLM calls ``num_gpu_blocks`` (its null block included). ``memory_bytes`` is the share of the
    device that the engine may use; weights, reserve and blocks fit in it.
    """

    num_blocks: int
    block_bytes: int
    memory_bytes: int
    weight_bytes: int
    reserve_bytes: int


def kv_capacity(
    architecture: ModelArchitecture,
    device: Device,
    *,
    tensor_parallel_size: int = 1,
    gpu_memory_utilization: float = 0.9,
    block_size: int = 16,
    dtype: str | None = None,
    kv_cache_dtype: str | None = None,
    reserve_bytes: int = DEFAULT_RESERVE_BYTES,
    where: str | None = None,
) -> KvCapacity:
    """Return the KV capacity of an instance of ``tensor_parallel_size`` equal devices.

    Parameters
    ----------
    gpu_memory_utilization
        Share of the device's reported memory that the engine takes, above 0 and at most 1.
    block_size
        Tokens per block.
    dtype, kv_cache_dtype
        Number formats of the weights (None: as published) and of the KV cache (None: as the weights).
    reserve_bytes
        See `DEFAULT_RESERVE_BYTES`.
    where
        The key's path, for messages.

    Raises
    ------
    InputError
        If the model does not divide among the ranks, or does not fit; the message has the numbers, and the least
        tensor parallelism that fits.
    """
    architecture.check_tensor_parallel_size(tensor_parallel_size, where=where)
    if not 0 < gpu_memory_utilization <= 1:
        raise InputError(
            f"gpu_memory_utilization must be above 0 and at most 1, got {gpu_memory_utilization}", where=where
        )

    def with_ranks(ranks: int) -> KvCapacity:
        weights = architecture.weight_bytes(ranks, dtype)
        block_bytes = block_size * architecture.kv_bytes_per_token(ranks, kv_cache_dtype or dtype)
        usable = int(device.memory_bytes * gpu_memory_utilization)
        blocks = (usable - weights - reserve_bytes) // block_bytes
        return KvCapacity(blocks, block_bytes, usable, weights, reserve_bytes)

    capacity = with_ranks(tensor_parallel_size)
    if capacity.num_blocks < 1:
        fitting = [ranks for ranks in architecture.tensor_parallel_sizes() if with_ranks(ranks).num_blocks >= 1]
        raise _does_not_fit(architecture, device.name, tensor_parallel_size, capacity, fitting, where)
    return capacity


def _does_not_fit(
    architecture: ModelArchitecture,
    device: str,
    ranks: int,
    capacity: KvCapacity,
    fitting: list[int],
    where: str | None,
) -> InputError:
    advice = (
        f"it fits from tensor_parallel_size {fitting[0]} on"
        if fitting
        else "no tensor_parallel_size up to 64 makes it fit"
    )
    return InputError(
        f"{architecture.name} does not fit on {device} with tensor_parallel_size {ranks}: of "
        f"{capacity.memory_bytes / GIB:.2f} GiB that the engine may use per device, weights take "
        f"{capacity.weight_bytes / GIB:.2f} GiB and the reserve {capacity.reserve_bytes / GIB:.2f} GiB, which leaves "
        f"no room for one KV block of {capacity.block_bytes} bytes; {advice}",
        where=where,
    )
