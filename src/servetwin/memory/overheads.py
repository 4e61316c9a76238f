"""Device memory that is neither weights nor tensors of a step: driver, libraries, collectives, CUDA graphs."""

from __future__ import annotations

from dataclasses import dataclass

from servetwin.core.errors import InputError
from servetwin.core.units import GIB
from servetwin.hardware.base import MIB, Device
from servetwin.llm.base import ModelArchitecture
from servetwin.memory.profiling import ProfilingStep

DRIVER_BYTES = 380 * MIB
DRIVER_BYTES_PER_GIB = 2 * MIB
"""What NVIDIA's driver keeps of the memory that it reports: CUDA's total (``cudaMemGetInfo``) is smaller by this.

Read off totals in public logs (``nvidia-smi`` MiB, CUDA GiB): RTX 3090 24,576, 23.56 to 23.69; RTX 4090 24,564, 23.52
to 23.64; RTX 5090 32,607, 31.36; A6000 49,140, 47.53; L4 23,034, 22.03; A10 23,028, 22.06; L40S 46,068, 44.39 to 44.52;
H100 81,559, 79.11 to 79.19; RTX PRO 6000 97,887, 94.97; H200 143,771, 139.81; B200 183,359, 178.35. Newer drivers keep
some 120 MiB more than older ones; the line lies between them. A100s keep 100 to 300 MiB more than it says."""

LEAST_CONTEXT_BYTES = 200 * MIB
"""A CUDA context takes 0.23 GiB (L4) to 0.6 GiB (H200): at least this must be free beside the engine's share."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What is not counted tensor by tensor: two figures, the same for all models and cards.

    Attributes
    ----------
    library_bytes
        Kernels and libraries that the profiling step loads. vLLM's own logs say 0.02 to 0.05 GiB ("non-torch forward
        increase memory") where no CUDA graph is captured within it; 30 MiB is their middle.
    graph_residue_bytes
        What capturing a few graphs within the profiling step leaves behind (0.18 and later): kernels, the driver's
        pools. Fitted to the RTX 4090's blocks; vLLM's own logs of such versions say 0.2 to 0.25 GiB with the libraries.
    """

    library_bytes: int = 30 * MIB
    graph_residue_bytes: int = 124 * MIB

    def __post_init__(self) -> None:
        for name, value in (("library_bytes", self.library_bytes), ("graph_residue_bytes", self.graph_residue_bytes)):
            if not 0 <= value <= GIB:
                raise InputError(f"{name} must be from 0 to {GIB}, got {value}")


DEFAULT_COEFFICIENTS = Coefficients()

NCCL_CHANNEL_BYTES = 10 * MIB
SCALE_UP_CHANNELS, PCIE_CHANNELS = 24, 4
"""A communicator that is set up within the profiling step: send and receive buffers of 4 MiB (``NCCL_BUFFSIZE``) and
the low-latency protocols' per channel, and the channels that NCCL opens over NVLink and over PCIe. Not fitted.

The first communicator, custom all-reduce (16 MiB) and symmetric memory (64 to 128 MiB) are set up before vLLM's first
snapshot: they lie in the part that ``gpu_memory_utilization`` leaves, with the CUDA context, and are not counted."""

GRAPH_BYTES_PER_LAYER = MIB // 4
"""What one captured graph takes per layer: its nodes' parameters and the driver's part (0.7 to 1.3 GiB for 86 graphs of
32 to 36 layers in public logs). Not fitted; counted from 0.20 on."""

LARGEST_GRAPH_TOKENS = 512


def driver_bytes(device: Device) -> int:
    """Return what the driver keeps of the reported memory; only NVIDIA's is known to."""
    if device.vendor != "NVIDIA":
        return 0
    return DRIVER_BYTES + round(DRIVER_BYTES_PER_GIB * device.memory_bytes / GIB)


def non_torch_bytes(device: Device, step: ProfilingStep, coefficients: Coefficients) -> int:
    """Return by how much memory outside PyTorch's allocator grows between vLLM's first snapshot and its last.

    On ROCm no graphs are captured within the step.
    """
    residue = coefficients.graph_residue_bytes if step.profiles_graphs and device.vendor != "AMD" else 0
    return coefficients.library_bytes + residue


def collective_bytes(device: Device, ranks: int) -> int:
    """Return what collectives among the ranks add within the profiling step."""
    if ranks == 1:
        return 0
    return NCCL_CHANNEL_BYTES * (PCIE_CHANNELS if device.scale_up is None else SCALE_UP_CHANNELS)


def graph_bytes(architecture: ModelArchitecture, device: Device, step: ProfilingStep) -> int:
    """Return vLLM's estimate of its CUDA graphs' memory, where the version takes it off the KV cache.

    Mixed steps are captured in pieces up to 512 tokens, decodes whole up to ``max_num_seqs``. On ROCm vLLM skips it.
    """
    if not step.counts_graphs or device.vendor == "AMD":
        return 0
    mixed = _capture_sizes(min(2 * step.max_num_seqs, LARGEST_GRAPH_TOKENS))
    decodes = _capture_sizes(min(step.max_num_seqs, LARGEST_GRAPH_TOKENS))
    return (mixed + decodes) * architecture.num_hidden_layers * GRAPH_BYTES_PER_LAYER


def _capture_sizes(largest: int) -> int:
    """Return how many of vLLM's graph sizes (1, 2, 4, by 8 to 256, then by 16) are at most ``largest``."""
    sizes = [1, 2, 4, *range(8, 257, 8), *range(272, LARGEST_GRAPH_TOKENS + 1, 16)]
    return sum(size <= largest for size in sizes)
