"""Formats of weights: bits per element, and the scales that quantised ones carry."""

from __future__ import annotations

from dataclasses import dataclass, replace

from servetwin.core.errors import unknown_name
from servetwin.core.number_formats import BYTES_PER_ELEMENT, number_format


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How a matrix is stored.

    Attributes
    ----------
    name
        ``fp32``, ``bf16``, ``fp16``, ``fp8``, ``int8``, ``int4``, ``mxfp4``, ``nvfp4``.
    bits
        Of one element.
    block
        Rows (outputs) and columns (inputs) that share one scale; 0 stands for all of them; None: no scales.
    scale_bits, zero_bits
        Of one scale, and of the zero point beside it.
    tensor_scale_bits, column_bits
        What a whole matrix has besides, and each of its input columns (GPTQ's ``g_idx``).
    activations
        Format in which the product is computed; None: that of the plain tensors, weights being expanded on the fly.
    """

    name: str
    bits: int
    block: tuple[int, int] | None = None
    scale_bits: int = 0
    zero_bits: int = 0
    tensor_scale_bits: int = 0
    column_bits: int = 0
    activations: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether there are no scales."""
        return self.block is None

    @property
    def bytes_per_element(self) -> float:
        """Bytes of one element, its scale left out."""
        return self.bits / 8

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of a matrix of ``rows`` outputs and ``columns`` inputs, with its scales."""
        bits = rows * columns * self.bits
        if self.block is not None:
            height, width = self.block[0] or rows, self.block[1] or columns
            blocks = -(-rows // height) * -(-columns // width)
            bits += blocks * (self.scale_bits + self.zero_bits) + self.tensor_scale_bits + columns * self.column_bits
        return -(-bits // 8)


PLAIN_FORMATS = {name: WeightFormat(name, 8 * size) for name, size in BYTES_PER_ELEMENT.items()}
"""Formats without scales, by name."""

QUANTIZED_FORMATS = {
    "fp8": WeightFormat("fp8", 8, (0, 0), scale_bits=32, activations="fp8"),
    "fp8-channel": WeightFormat("fp8", 8, (1, 0), scale_bits=32, activations="fp8"),
    "fp8-block": WeightFormat("fp8", 8, (128, 128), scale_bits=32, activations="fp8"),
    "fp8-weight-only": WeightFormat("fp8", 8, (1, 0), scale_bits=32),
    "int8": WeightFormat("int8", 8, (1, 0), scale_bits=32, activations="int8"),
    "int8-weight-only": WeightFormat("int8", 8, (1, 0), scale_bits=16),
    "awq": WeightFormat("int4", 4, (1, 128), scale_bits=16, zero_bits=4),
    "gptq": WeightFormat("int4", 4, (1, 128), scale_bits=16, zero_bits=4, column_bits=32),
    "mxfp4": WeightFormat("mxfp4", 4, (1, 32), scale_bits=8),
    "nvfp4": WeightFormat("nvfp4", 4, (1, 16), scale_bits=8, tensor_scale_bits=32, activations="nvfp4"),
}
"""Formats of quantised matrices by the scheme's name, with the block sizes that publishers use.

Sources: vLLM's documentation on quantization; OCP Microscaling Formats v1.0 (MXFP4: 32 elements, an 8-bit scale);
NVIDIA's NVFP4 (16 elements, an fp8 scale, an fp32 scale per tensor); AutoAWQ and AutoGPTQ (groups of 128, fp16 scales,
4-bit zero points, GPTQ with an int32 group index per input); DeepSeek-V3, section 3.3 (fp8 in blocks of 128 x 128)."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """What of a model is quantised, and how.

    Attributes
    ----------
    method
        The scheme as its config names it, for people.
    weights
        Format of the quantised matrices.
    experts_only
        Whether only routed experts are (gpt-oss).
    lm_head
        Whether the LM head is too.
    """

    method: str
    weights: WeightFormat
    experts_only: bool = False
    lm_head: bool = False


def quantization(scheme: str, *, where: str | None = None) -> Quantization:
    """Return the quantisation of all linear layers in ``scheme``, a key of `QUANTIZED_FORMATS`.

    Raises
    ------
    InputError
        If there is no such scheme.
    """
    if scheme not in QUANTIZED_FORMATS:
        raise unknown_name("quantization", scheme, QUANTIZED_FORMATS, where=where)
    return Quantization(scheme, QUANTIZED_FORMATS[scheme])


def plain_format(name: str, *, where: str | None = None) -> WeightFormat:
    """Return the format without scales that ``name`` means."""
    return PLAIN_FORMATS[number_format(name, where=where)]


def with_group(scheme: str, group_size: int, *, bits: int | None = None) -> WeightFormat:
    """Return the format of ``scheme`` with another group size (below 1: one group per output) or other bits."""
    form = QUANTIZED_FORMATS[scheme]
    form = replace(form, block=(1, max(group_size, 0)))
    if bits is None or bits == form.bits:
        return form
    return replace(form, name=f"int{bits}", bits=bits, zero_bits=bits if form.zero_bits else 0)
