"""Whether a model can be divided as asked: heads, widths, layers and experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from servetwin.core.errors import InputError
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.parallel import Parallelism, stage_layers
from servetwin.llm.parts import LatentAttention, Layer, MixtureOfExperts
from servetwin.llm.sharding import is_quantized


def check_parallelism(model: ModelArchitecture, ranks: Parallelism, *, where: str | None = None) -> None:
    """Raise if ``model`` cannot be divided among ``ranks``.

    Raises
    ------
    InputError
        With the numbers that do not divide, and what would.
    """
    try:
        stage_layers(model.num_hidden_layers, ranks.pipeline, 0, ranks.partition)
    except InputError as error:
        raise InputError(str(error), where=where) from None
    if ranks.part == "ffn":
        for trouble in _ffn_troubles(model, ranks):
            raise InputError(f"{model.name}: {trouble}", where=where)
        return
    for trouble in _group_troubles(model, ranks):
        raise InputError(f"{model.name}: {trouble}", where=where)
    if ranks.expert == 1 and ranks.experts_group == ranks.tensor:
        model.check_tensor_parallel_size(ranks.tensor, where=where)
        return
    for trouble in _troubles(model, ranks):
        raise InputError(f"{model.name}: {trouble}", where=where)


def _group_troubles(model: ModelArchitecture, ranks: Parallelism) -> Iterator[str]:
    """Yield what is wrong with the groups of ranks that share experts, or divide a sequence."""
    group = ranks.experts_group
    if ranks.expert > 1 and not model.is_moe:
        yield f"expert parallelism {ranks.expert}: it has no experts; leave enable_expert_parallel out"
    if group % ranks.expert:
        yield f"expert parallelism {ranks.expert} does not divide the {group} ranks of a stage; {_divisors(group)}"
    if ranks.prefill_context > 1 and ranks.data > 1:
        yield "prefill_context_parallel_size does not go with data_parallel_size, as in vLLM; leave one at 1"
    latent = isinstance(model.attention, LatentAttention)
    kv_heads = 1 if latent else model.num_key_value_heads
    copies = max(1, ranks.tensor // kv_heads)
    if ranks.decode_context > 1 and copies % ranks.decode_context:
        yield (
            f"decode_context_parallel_size {ranks.decode_context} must divide the copies of the KV cache: {kv_heads} "
            f"{'compressed head' if latent else 'KV heads'} on {ranks.tensor} accelerators are {copies}; "
            f"{_divisors(copies)}"
        )


def _ffn_troubles(model: ModelArchitecture, ranks: Parallelism) -> Iterator[str]:
    """Yield what is wrong with devices that hold the FFNs alone."""
    for layer, _ in model.layers:
        width = layer.mlp.intermediate_size
        if isinstance(layer.mlp, MixtureOfExperts):
            if ranks.expert > layer.mlp.num_experts:
                yield (
                    f"{ranks.expert} FFN devices cannot share {layer.mlp.num_experts} experts: at least one each is "
                    "needed"
                )
        elif width % ranks.tensor:
            yield f"{ranks.tensor} FFN devices do not divide intermediate_size {width}; {_divisors(width)}"


def _troubles(model: ModelArchitecture, ranks: Parallelism) -> Iterator[str]:
    block = model.uncut_block
    for layer, _ in model.layers:
        yield from _attention_troubles(layer, ranks.tensor)
        mlp = layer.mlp
        cut = block if is_quantized(layer) else 1
        if not isinstance(mlp, MixtureOfExperts):
            yield from _width_troubles("intermediate_size", mlp.intermediate_size, ranks.tensor, cut)
            continue
        if ranks.expert > mlp.num_experts:
            yield (
                f"{ranks.expert} accelerators cannot share {mlp.num_experts} experts: at least one each is needed; "
                f"tensor x data parallelism may be at most {mlp.num_experts} with enable_expert_parallel"
            )
        if not ranks.sequence_parallel_experts:
            yield from _width_troubles("shared experts' size", mlp.shared_intermediate_size, ranks.tensor, cut)
        if mlp.intermediate_size % (ranks.expert_tensor * (cut if ranks.expert_tensor > 1 else 1)):
            yield (
                f"tensor x data parallelism ({ranks.expert_tensor} accelerators) does not divide the experts' "
                f"intermediate size {mlp.intermediate_size}{_blocks(cut)}; {_divisors(mlp.intermediate_size // cut)}, "
                "or set enable_expert_parallel: true to keep experts whole"
            )


def _attention_troubles(layer: Layer, tensor: int) -> Iterator[str]:
    """Yield what is wrong with the heads of one layer, and the degrees that both kinds of heads allow."""
    attention = layer.attention
    heads = attention.num_heads
    kv_heads = heads if isinstance(attention, LatentAttention) else attention.num_kv_heads
    if heads % tensor or (kv_heads % tensor and tensor % kv_heads):
        sizes = [i for i in range(1, heads + 1) if heads % i == 0 and (kv_heads % i == 0 or i % kv_heads == 0)]
        yield (
            f"tensor_parallel_size {tensor} does not divide {heads} attention heads and {kv_heads} KV heads evenly; "
            f"{_allowed(sizes)}"
        )


def _width_troubles(name: str, width: int, tensor: int, block: int) -> Iterator[str]:
    if tensor > 1 and width % (tensor * block):
        fitting = _divisors(width // block)
        yield f"tensor_parallel_size {tensor} does not divide {name} {width}{_blocks(block)}; {fitting}"


def _blocks(block: int) -> str:
    return f", quantised in blocks of {block}" if block > 1 else ""


def _divisors(number: int) -> str:
    return _allowed([i for i in range(1, min(number, 1024) + 1) if number % i == 0])


def _allowed(sizes: Sequence[int]) -> str:
    return f"allowed: {', '.join(map(str, sizes[:20]))}{', ...' if len(sizes) > 20 else ''}"
