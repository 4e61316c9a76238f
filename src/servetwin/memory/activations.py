"""Peak memory of PyTorch's allocator in vLLM's profiling step: three phases, of which the largest counts.

Forward pass, sampling and, on a first start, compilation follow one another and free what they took. All formulas count
tensors that vLLM and PyTorch allocate (read in vLLM 0.11 to 0.20, PyTorch 2.8 to 2.10); nothing here is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping

from servetwin.core.number_formats import bytes_per_element, number_format
from servetwin.hardware.base import MIB, Device
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.parallel import Parallelism
from servetwin.llm.parts import Attention, LatentAttention, Layer, MixtureOfExperts, Mlp
from servetwin.memory.profiling import ProfilingStep

FLOAT_BYTES, LONG_BYTES = 4, 8

LARGE_WORKSPACE_FAMILIES = ("hopper", "blackwell", "blackwell_ultra", "blackwell_rtx")
CUBLAS_WORKSPACE_BYTES = 65 * MIB // 8
LARGE_CUBLAS_WORKSPACE_BYTES = 32 * MIB
"""PyTorch's workspace for cuBLAS (``getChosenWorkspaceSize``): 8.125 MiB, 32 MiB from Hopper on."""

SEGMENTED_SORT_LEAST = 128
"""From this many rows on PyTorch sorts them as segments; fewer are sorted as a whole (``SortStable.cu``)."""

MLA_WORKSPACE_TOKENS = 64 * 1024
"""Most tokens of context that latent attention expands at once (``chunked_prefill_workspace_size``)."""

DEFAULT_MULTIPROCESSORS = 128
"""Of a device that states none: rows of the Triton sampler's buffer."""


def peak_by_phase(
    architecture: ModelArchitecture,
    device: Device,
    ranks: Parallelism,
    step: ProfilingStep,
    dtype: str | None = None,
) -> dict[str, Mapping[str, int]]:
    """Return the bytes of one rank's temporary tensors by phase, and within a phase by part.

    Parts: ``activations``, ``logits`` (with the sampler's temporaries) and ``compilation``.
    """
    size = activation_bytes(architecture, dtype)
    hidden = architecture.hidden_size * size
    workspace = _cublas_workspace(device)
    stage = architecture.stage_layers(ranks)
    layers = max(_layer_bytes(layer, architecture.hidden_size, ranks, step, size) for layer, _ in stage)
    output = step.max_num_batched_tokens * hidden
    sampled = 2 * step.num_sequences * hidden
    phases: dict[str, Mapping[str, int]] = {
        "forward": {"activations": layers + workspace},
    }
    if ranks.is_last_stage:
        logits = _sampler_bytes(architecture.vocab_size, device, step, size)
        phases["sampling"] = {"activations": output + sampled + workspace, "logits": logits}
    if step.compiles:
        embedding = architecture.padded_vocab_per_rank(ranks.tensor) * hidden
        phases["compilation"] = {"activations": 2 * output + workspace, "compilation": embedding}
    return phases


def activation_bytes(architecture: ModelArchitecture, dtype: str | None = None) -> int:
    """Return the bytes of one element of activations: quantised weights leave them in the model's own format."""
    own = bytes_per_element(architecture.dtype)
    if dtype is None or number_format(dtype) in ("fp8", "int8"):
        return own
    return bytes_per_element(dtype)


def _cublas_workspace(device: Device) -> int:
    if device.vendor != "NVIDIA":
        return 0
    return LARGE_CUBLAS_WORKSPACE_BYTES if device.family in LARGE_WORKSPACE_FAMILIES else CUBLAS_WORKSPACE_BYTES


def _layer_bytes(layer: Layer, hidden_size: int, ranks: Parallelism, step: ProfilingStep, size: int) -> int:
    """Return the peak within a layer: hidden states, residual and all-reduce's output beside attention or MLP.

    Data-parallel ranks gather each other's tokens before the experts.
    """
    tokens, tensor = step.max_num_batched_tokens, ranks.tensor
    stream = (2 if tensor == 1 else 3) * tokens * hidden_size * size
    attention = tokens * _attention_elements(layer.attention, tensor) * size
    if isinstance(layer.attention, LatentAttention):
        attention += _latent_workspace(layer.attention, tensor, step, size)
    if ranks.part == "attention":
        return stream + attention
    routed = tokens * ranks.data if isinstance(layer.mlp, MixtureOfExperts) else tokens
    return stream + max(attention, routed * _mlp_elements(layer, hidden_size, ranks) * size)


def _attention_elements(attention: Attention | LatentAttention, ranks: int) -> int:
    """Return elements per token: queries, keys and values, and attention's output."""
    heads = attention.num_heads // ranks
    if isinstance(attention, LatentAttention):
        expanded = heads * (attention.qk_nope_head_dim + attention.v_head_dim)
        compressed = (attention.q_lora_rank or 0) + attention.latent_dim
        return compressed + 2 * heads * attention.head_dim + expanded + heads * attention.v_head_dim
    key_value = 2 * attention.kv_heads_per_rank(ranks) * attention.head_dim
    return 2 * heads * attention.head_dim + key_value


def _latent_workspace(attention: LatentAttention, ranks: int, step: ProfilingStep, size: int) -> int:
    """Return what expanding a long context takes: compressed vectors, then keys and values of this rank's heads."""
    longest = step.max_model_len or MLA_WORKSPACE_TOKENS
    tokens = min(max(8 * longest, 64 * step.max_num_seqs), MLA_WORKSPACE_TOKENS)
    heads = attention.num_heads // ranks
    return tokens * (attention.latent_dim + heads * (attention.qk_nope_head_dim + attention.v_head_dim)) * size


def _mlp_elements(layer: Layer, hidden_size: int, ranks: Parallelism) -> int:
    """Return elements per token: gate and up, and their product; of experts, for each that the token visits.

    The output of the experts' second product lies where that of the first lay (``fused_experts``).
    """
    mlp = layer.mlp
    if isinstance(mlp, Mlp):
        return 3 * (mlp.intermediate_size // ranks.tensor)
    width = mlp.intermediate_size // ranks.expert_tensor
    routed = mlp.top_k * (max(2 * width, hidden_size) + width)
    shared = hidden_size + 3 * mlp.shared_intermediate_size // ranks.tensor if mlp.shared_intermediate_size else 0
    return 2 * mlp.num_experts + hidden_size + max(routed, shared)


def _sampler_bytes(vocabulary: int, device: Device, step: ProfilingStep, size: int) -> int:
    """Return the bytes of logits, their copy in fp32, and what sampling with top-k and top-p adds.

    Sorting adds sorted logits and their indices (int64), and within the sort: other indices and a second buffer of
    both; whole rows at once need index pairs twice and the sorted keys besides. Without sorting: probabilities, random
    numbers and a row per multiprocessor.
    """
    rows = step.num_sequences
    pair = FLOAT_BYTES + LONG_BYTES
    if not step.sorts_logits:
        multiprocessors = device.multiprocessors or DEFAULT_MULTIPROCESSORS
        programs = min(rows, multiprocessors)
        buffer = min(1 << (programs - 1).bit_length(), multiprocessors)
        return vocabulary * (rows * (size + 3 * FLOAT_BYTES) + buffer * FLOAT_BYTES)
    within = LONG_BYTES + pair if rows >= SEGMENTED_SORT_LEAST else 2 * LONG_BYTES + FLOAT_BYTES + pair
    return vocabulary * rows * (size + FLOAT_BYTES + pair + within)
