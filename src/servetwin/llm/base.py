"""The architecture of a decoder-only language model: its layers, its tensors, and what a rank holds of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from servetwin.core.errors import InputError
from servetwin.core.number_formats import bytes_per_element
from servetwin.llm.formats import Quantization, WeightFormat, plain_format
from servetwin.llm.formats import quantization as named_quantization
from servetwin.llm.parallel import ONE_RANK, Parallelism, stage_layers
from servetwin.llm.parts import Attention, LatentAttention, Layer, LayerKind, MixtureOfExperts, Mlp
from servetwin.llm.sharding import divides, uncut_block, widths
from servetwin.llm.tensors import Tensor, layer_tensors

VOCABULARY_PADDING = 64
"""vLLM pads the vocabulary to a multiple of this before it divides it among ranks (``DEFAULT_VOCAB_PADDING_SIZE``)."""


@dataclass(frozen=True, slots=True)
class ModelArchitecture:
    """A decoder-only transformer, by the names of Hugging Face's ``config.json``.

    Attributes
    ----------
    name
        The model's name, or that of the file it was read from.
    layer_sequence
        All layers, first to last; equal ones are the same object. See `layers` for kinds and counts.
    dtype
        Number format of the plain weights, of activations and, by default, of the KV cache (``bf16``).
    quantization
        How the matrices are quantised; None: not at all.
    published_kv_cache_dtype
        Format of the KV cache that the config asks for; None: as ``dtype``.
    final_norm_bias, lm_head_bias
        Which small tensors the model has at its end.
    source
        Where the figures come from.
    """

    name: str
    model_type: str
    hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    layer_sequence: tuple[Layer, ...]
    dtype: str
    quantization: Quantization | None = None
    published_kv_cache_dtype: str | None = None
    final_norm_bias: bool = False
    lm_head_bias: bool = False
    source: str = ""

    @property
    def layers(self) -> tuple[LayerKind, ...]:
        """The kinds of layers, in the order in which they first stand, and how many there are of each."""
        return self.stage_layers(ONE_RANK)

    def stage_layers(self, ranks: Parallelism) -> tuple[LayerKind, ...]:
        """Return the kinds of layers of one pipeline stage."""
        indices = stage_layers(self.num_hidden_layers, ranks.pipeline, ranks.stage, ranks.partition)
        stage = [self.layer_sequence[index] for index in indices]
        by_identity = {id(layer): layer for layer in stage}  # hashing every layer by its sizes would be slow
        counts: Counter[Layer] = Counter()
        for identity, count in Counter(map(id, stage)).items():
            counts[by_identity[identity]] += count
        return tuple(LayerKind(layer, count) for layer, count in counts.items())

    @property
    def num_hidden_layers(self) -> int:
        """Decoder layers."""
        return len(self.layer_sequence)

    @property
    def attention(self) -> Attention | LatentAttention:
        """The first layer's attention; other layers may have another window."""
        return self.layer_sequence[0].attention

    @property
    def num_attention_heads(self) -> int:
        """Query heads."""
        return self.attention.num_heads

    @property
    def num_key_value_heads(self) -> int:
        """Heads of keys and values; in MLA all heads, once expanded."""
        return self.attention.num_kv_heads

    @property
    def head_dim(self) -> int:
        """Size of one query; ``num_attention_heads * head_dim`` need not equal ``hidden_size``."""
        return self.attention.head_dim

    @property
    def intermediate_size(self) -> int:
        """Width of the dense MLP; of one routed expert where all layers are mixtures."""
        dense = [layer.mlp for layer in self.layer_sequence if isinstance(layer.mlp, Mlp)]
        return (dense[0] if dense else self.layer_sequence[0].mlp).intermediate_size

    @property
    def qkv_bias(self) -> bool:
        """Whether the projections of queries, keys and values add a bias."""
        return self.attention.qkv_bias

    @property
    def o_bias(self) -> bool:
        """Whether attention's output projection adds a bias."""
        return self.attention.o_bias

    @property
    def mlp_bias(self) -> bool:
        """Whether the MLP's or the experts' projections add a bias."""
        return self.layer_sequence[0].mlp.bias

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised."""
        return self.attention.qk_norm != "none"

    @property
    def is_moe(self) -> bool:
        """Whether any layer is a mixture of experts."""
        return any(isinstance(layer.mlp, MixtureOfExperts) for layer in self.layer_sequence)

    @property
    def features(self) -> tuple[str, ...]:
        """What it has beyond a plain dense transformer, as a step model may have to refuse: words for a message."""
        attentions = {layer.attention for layer in self.layer_sequence}
        found = {
            "a mixture of experts": self.is_moe,
            "latent attention (MLA)": any(isinstance(attention, LatentAttention) for attention in attentions),
            "windowed attention": any(attention.window is not None for attention in attentions),
            "quantised weights": self.quantization is not None,
        }
        return tuple(words for words, has in found.items() if has)

    @property
    def format_name(self) -> str:
        """Format of most weights: ``bf16``; the scheme in brackets where they are quantised (``int4 (awq)``)."""
        if self.quantization is None:
            return self.dtype
        name, method = self.quantization.weights.name, self.quantization.method
        return name if name == method else f"{name} ({method})"

    def with_quantization(self, scheme: str, *, where: str | None = None) -> ModelArchitecture:
        """Return this model with all its linear layers quantised in ``scheme`` (a key of ``QUANTIZED_FORMATS``)."""
        return replace(self, quantization=named_quantization(scheme, where=where))

    def tensors(self, ranks: Parallelism = ONE_RANK) -> Iterator[Tensor]:
        """Yield every weight tensor of the model, or of one rank's stage and part of the layers, undivided."""
        return (tensor for tensor in self._stage_tensors(ranks) if ranks.holds(tensor.name))

    def _stage_tensors(self, ranks: Parallelism) -> Iterator[Tensor]:
        hidden = self.hidden_size
        if ranks.is_first_stage:
            yield Tensor("embedding", (self.vocab_size, hidden), 1, "vocabulary")
        for layer, count in self.stage_layers(ranks):
            yield from layer_tensors(layer, hidden, count)
        if ranks.is_last_stage:
            yield Tensor("final_layernorm", (hidden,), 1 + self.final_norm_bias, None)
            if not self.tie_word_embeddings or not ranks.is_first_stage:
                yield Tensor("lm_head", (self.vocab_size, hidden), 1, "vocabulary", "lm_head")
            if self.lm_head_bias:
                yield Tensor("lm_head.bias", (self.vocab_size,), 1, "vocabulary")

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model; tied embeddings count once."""
        return sum(tensor.elements * tensor.copies for tensor in self.tensors())

    @property
    def num_active_parameters(self) -> int:
        """Parameters that one token meets: of the routed experts, ``top_k`` per layer; the embedding counts whole."""
        return sum(tensor.active_elements * tensor.copies for tensor in self.tensors())

    def kv_heads_per_rank(self, tensor_parallel_size: int = 1) -> int:
        """Return the KV heads that one rank holds: replicated, at least one each."""
        return self.attention.kv_heads_per_rank(tensor_parallel_size)

    def padded_vocab_per_rank(self, tensor_parallel_size: int = 1) -> int:
        """Return the rows of the embedding, and of the LM head, on one rank."""
        padded = -(-self.vocab_size // VOCABULARY_PADDING) * VOCABULARY_PADDING
        return -(-padded // tensor_parallel_size)

    def rank_shape(self, tensor: Tensor, ranks: Parallelism) -> tuple[int, ...]:
        """Return the shape of the part of ``tensor`` that one rank holds."""
        shape = list(tensor.shape)
        if tensor.experts:
            shape[0] = -(-shape[0] // ranks.expert)
        divisor = ranks.expert_tensor if tensor.experts else ranks.tensor
        if ranks.sequence_parallel_experts and tensor.name.startswith("shared_experts."):
            divisor = 1  # each rank runs them whole, on its part of the tokens
        first = 1 if tensor.experts else 0
        if tensor.split == "rows":
            shape[first] //= divisor
        elif tensor.split == "columns":
            shape[-1] //= divisor
        elif tensor.split == "kv_heads":
            shape[0] = shape[0] // self.num_key_value_heads * self.kv_heads_per_rank(divisor)
        elif tensor.split == "vocabulary":
            shape[0] = self.padded_vocab_per_rank(divisor)
        return tuple(shape)

    def weight_elements(self, tensor_parallel_size: int = 1, *, ranks: Parallelism | None = None) -> int:
        """Return the weight elements that one rank holds; ``ranks`` for more than tensor parallelism."""
        ranks = ranks or Parallelism(tensor_parallel_size)
        total = 0
        for tensor in self.tensors(ranks):
            total += tensor._replace(shape=self.rank_shape(tensor, ranks)).elements * tensor.copies
        return total

    def weight_bytes(
        self, tensor_parallel_size: int = 1, dtype: str | None = None, *, ranks: Parallelism | None = None
    ) -> int:
        """Return the bytes of weights that one rank holds, with their scales.

        Parameters
        ----------
        tensor_parallel_size, ranks
            The ranks that share the model; ``ranks`` for more than tensor parallelism.
        dtype
            One plain format for all tensors; None: as published, each matrix in its own.
        """
        ranks = ranks or Parallelism(tensor_parallel_size)
        if dtype is not None:
            return self.weight_elements(ranks=ranks) * bytes_per_element(dtype)
        return sum(self._bytes(tensor, ranks) for tensor in self.tensors(ranks))

    def _bytes(self, tensor: Tensor, ranks: Parallelism) -> int:
        part = tensor._replace(shape=self.rank_shape(tensor, ranks))
        form = self.weight_format(tensor.linear)
        if form.is_plain or len(part.shape) < 2:
            return part.elements * part.copies * form.bits // 8
        matrices = part.shape[0] if part.experts else 1
        return matrices * form.matrix_bytes(part.shape[-2], part.shape[-1]) * part.copies

    def weight_format(self, linear: str) -> WeightFormat:
        """Return the format of a group of matrices (`Tensor.linear`); an empty one is never quantised."""
        scheme = self.quantization
        quantized = scheme is not None and linear != "" and (linear == "experts" or not scheme.experts_only)
        if scheme is None or not quantized or (linear == "lm_head" and not scheme.lm_head):
            return plain_format(self.dtype)
        return scheme.weights

    @property
    def kv_cache_dtype(self) -> str:
        """Format of the KV cache as published."""
        return self.published_kv_cache_dtype or self.dtype

    def kv_bytes_per_token(
        self, tensor_parallel_size: int = 1, dtype: str | None = None, *, ranks: Parallelism | None = None
    ) -> int:
        """Return the bytes of KV cache that one token takes on one rank, over all its layers, windowed or not."""
        ranks = ranks or Parallelism(tensor_parallel_size)
        kinds = self.stage_layers(ranks) if ranks.part != "ffn" else ()
        elements = sum(layer.attention.kv_elements_per_token(ranks.tensor) * count for layer, count in kinds)
        return elements * bytes_per_element(dtype or self.kv_cache_dtype)

    def tensor_parallel_sizes(self) -> list[int]:
        """Return the degrees of tensor parallelism, up to 64, that divide this model evenly."""
        return [ranks for ranks in range(1, 65) if self._divides(ranks)]

    def _divides(self, ranks: int) -> bool:
        return all(divides(layer, ranks, self.uncut_block) for layer, _ in self.layers)

    @property
    def uncut_block(self) -> int:
        """Inputs of a matrix that share a scale and stay on one rank; 1: no such rule."""
        return uncut_block(self.quantization.weights if self.quantization else None)

    def check_tensor_parallel_size(self, ranks: int, *, where: str | None = None) -> None:
        """Raise an InputError if ``ranks`` ranks cannot share the heads and the MLP evenly."""
        if ranks < 1 or not self._divides(ranks):
            sizes = dict.fromkeys(width for layer, _ in self.layers for width in widths(layer))
            block = self.uncut_block
            blocks = f" quantised in blocks of {block}" if block > 1 else ""
            raise InputError(
                f"tensor_parallel_size {ranks} does not divide {self.name} evenly ({self.num_attention_heads} "
                f"attention heads, {self.num_key_value_heads} KV heads, intermediate_size "
                f"{' and '.join(map(str, sizes))}{blocks}); "
                f"allowed: {', '.join(map(str, self.tensor_parallel_sizes()))}",
                where=where,
            )
