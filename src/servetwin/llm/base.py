"""The architecture of a dense decoder-only language model: its sizes, its tensors, and what a rank holds of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from servetwin.core.errors import InputError
from servetwin.core.number_formats import bytes_per_element

VOCABULARY_PADDING = 64
"""vLLM pads the vocabulary to a multiple of this before it divides it among ranks (``DEFAULT_VOCAB_PADDING_SIZE``)."""


class Tensor(NamedTuple):
    """One weight tensor.

    ``copies``: how often it stands in the model. ``split``: what tensor parallelism divides (``None``: every rank holds
    it whole; ``kv_heads`` are replicated where there are more ranks than heads; ``vocabulary`` is padded first).
    """

    name: str
    shape: tuple[int, ...]
    copies: int
    split: Literal["even", "kv_heads", "vocabulary"] | None

    @property
    def elements(self) -> int:
        """Elements of one copy."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True)
class ModelArchitecture:
    """A dense decoder-only transformer, by the names of Hugging Face's ``config.json``.

    Attributes
    ----------
    name
        The model's name, or that of the file it was read from.
    head_dim
        Size of one head; ``num_attention_heads * head_dim`` need not equal ``hidden_size`` (Qwen3).
    qkv_bias, o_bias, mlp_bias, qk_norm
        Which small tensors the family has beside its matrices.
    dtype
        Number format of the weights as published (``bf16``).
    source
        Where the figures come from.
    """

    name: str
    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    dtype: str
    source: str = ""

    def tensors(self) -> Iterator[Tensor]:
        """Yield every weight tensor."""
        layers, hidden = self.num_hidden_layers, self.hidden_size
        yield Tensor("embedding", (self.vocab_size, hidden), 1, "vocabulary")
        yield from self._attention_tensors()
        yield from self._mlp_tensors()
        yield Tensor("layernorm", (hidden,), 2 * layers, None)
        yield Tensor("final_layernorm", (hidden,), 1, None)
        if not self.tie_word_embeddings:
            yield Tensor("lm_head", (self.vocab_size, hidden), 1, "vocabulary")

    def _attention_tensors(self) -> Iterator[Tensor]:
        layers, hidden = self.num_hidden_layers, self.hidden_size
        query = self.num_attention_heads * self.head_dim
        key_value = self.num_key_value_heads * self.head_dim
        yield Tensor("q_proj", (query, hidden), layers, "even")
        yield Tensor("kv_proj", (2 * key_value, hidden), layers, "kv_heads")
        yield Tensor("o_proj", (hidden, query), layers, "even")
        if self.qkv_bias:
            yield Tensor("q_proj.bias", (query,), layers, "even")
            yield Tensor("kv_proj.bias", (2 * key_value,), layers, "kv_heads")
        if self.o_bias:
            yield Tensor("o_proj.bias", (hidden,), layers, None)
        if self.qk_norm:
            yield Tensor("qk_norm", (2, self.head_dim), layers, None)

    def _mlp_tensors(self) -> Iterator[Tensor]:
        layers, hidden, width = self.num_hidden_layers, self.hidden_size, self.intermediate_size
        yield Tensor("gate_up_proj", (2 * width, hidden), layers, "even")
        yield Tensor("down_proj", (hidden, width), layers, "even")
        if self.mlp_bias:
            yield Tensor("gate_up_proj.bias", (2 * width,), layers, "even")
            yield Tensor("down_proj.bias", (hidden,), layers, None)

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model; tied embeddings count once."""
        return sum(tensor.elements * tensor.copies for tensor in self.tensors())

    def kv_heads_per_rank(self, tensor_parallel_size: int = 1) -> int:
        """Return the KV heads that one rank holds: replicated, at least one each."""
        return max(1, self.num_key_value_heads // tensor_parallel_size)

    def padded_vocab_per_rank(self, tensor_parallel_size: int = 1) -> int:
        """Return the rows of the embedding, and of the LM head, on one rank."""
        padded = -(-self.vocab_size // VOCABULARY_PADDING) * VOCABULARY_PADDING
        return -(-padded // tensor_parallel_size)

    def weight_elements(self, tensor_parallel_size: int = 1) -> int:
        """Return the weight elements that one rank holds."""
        return sum(self._rank_elements(tensor, tensor_parallel_size) * tensor.copies for tensor in self.tensors())

    def _rank_elements(self, tensor: Tensor, ranks: int) -> int:
        if tensor.split == "even":
            return tensor.elements // ranks
        if tensor.split == "kv_heads":
            return tensor.elements // self.num_key_value_heads * self.kv_heads_per_rank(ranks)
        if tensor.split == "vocabulary":
            return self.padded_vocab_per_rank(ranks) * self.hidden_size
        return tensor.elements

    def weight_bytes(self, tensor_parallel_size: int = 1, dtype: str | None = None) -> int:
        """Return the bytes of weights that one rank holds, in ``dtype`` (the published format where None)."""
        return self.weight_elements(tensor_parallel_size) * bytes_per_element(dtype or self.dtype)

    def kv_bytes_per_token(self, tensor_parallel_size: int = 1, dtype: str | None = None) -> int:
        """Return the bytes of KV cache that one token takes on one rank, over all layers."""
        heads = self.kv_heads_per_rank(tensor_parallel_size)
        return 2 * heads * self.head_dim * self.num_hidden_layers * bytes_per_element(dtype or self.dtype)

    def tensor_parallel_sizes(self) -> list[int]:
        """Return the degrees of tensor parallelism, up to 64, that divide this model evenly."""
        return [ranks for ranks in range(1, 65) if self._divides(ranks)]

    def _divides(self, ranks: int) -> bool:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        even_kv = kv_heads % ranks == 0 or ranks % kv_heads == 0
        return heads % ranks == 0 and even_kv and self.intermediate_size % ranks == 0

    def check_tensor_parallel_size(self, ranks: int, *, where: str | None = None) -> None:
        """Raise an InputError if ``ranks`` ranks cannot share the heads and the MLP evenly."""
        if ranks < 1 or not self._divides(ranks):
            raise InputError(
                f"tensor_parallel_size {ranks} does not divide {self.name} evenly ({self.num_attention_heads} "
                f"attention heads, {self.num_key_value_heads} KV heads, intermediate_size {self.intermediate_size}); "
                f"allowed: {', '.join(map(str, self.tensor_parallel_sizes()))}",
                where=where,
            )
