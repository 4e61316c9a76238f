"""Whether ranks can divide a model: one error each, with the numbers and what would be valid."""

from __future__ import annotations

from servetwin.core.errors import InputError
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.parallel import Parallelism, stage_layers
from servetwin.llm.parts import LatentAttention, MixtureOfExperts


def check_parallelism(model: ModelArchitecture, ranks: Parallelism, *, where: str | None = None) -> None:
    """Raise an InputError if the engine would not accept these degrees for the model.

    Checks heads and widths over tensor ranks, layers over stages, experts over their ranks, and KV heads over the ranks
    that divide a context. Other rules of an engine (what goes with what) are its own.
    """
    model.check_tensor_parallel_size(ranks.tensor, where=where)
    try:
        stage_layers(model.num_hidden_layers, ranks.pipeline, ranks.stage, ranks.partition)
    except InputError as error:
        raise InputError(f"{model.name}: {error}", where=where) from None
    _check_experts(model, ranks, where)
    _check_context(model, ranks, where)


def _check_experts(model: ModelArchitecture, ranks: Parallelism, where: str | None) -> None:
    moes = {layer.mlp for layer in model.layer_sequence if isinstance(layer.mlp, MixtureOfExperts)}
    if not moes and ranks.expert > 1:
        raise InputError(f"expert parallelism {ranks.expert}: {model.name} has no experts; leave it out", where=where)
    group = ranks.experts_group
    if group % ranks.expert:
        degrees = ", ".join(str(size) for size in range(1, group + 1) if group % size == 0)
        raise InputError(
            f"expert parallelism {ranks.expert} does not divide the {group} ranks that share the experts (tensor x "
            f"context x data); allowed: {degrees}",
            where=where,
        )
    for moe in moes:
        if ranks.expert > moe.num_experts:
            raise InputError(
                f"expert parallelism {ranks.expert} is more than {model.name}'s {moe.num_experts} experts", where=where
            )
        if moe.intermediate_size % ranks.expert_tensor:
            raise InputError(
                f"{ranks.expert_tensor} ranks cannot divide one of {model.name}'s experts (width "
                f"{moe.intermediate_size}); use expert parallelism over all {group} ranks",
                where=where,
            )


def _check_context(model: ModelArchitecture, ranks: Parallelism, where: str | None) -> None:
    if ranks.prefill_context > 1 and ranks.data > 1:
        raise InputError("prefill context parallelism does not go with data parallelism (vLLM)", where=where)
    latent = isinstance(model.attention, LatentAttention)
    most = ranks.tensor if latent else max(1, ranks.tensor // model.num_key_value_heads)
    if ranks.decode_context > most:
        heads = "1 compressed head" if latent else f"{model.num_key_value_heads} KV heads"
        raise InputError(
            f"decode context parallelism {ranks.decode_context} divides copies of the KV cache, of which "
            f"{ranks.tensor} tensor-parallel ranks with {heads} have {most}: allowed are its divisors",
            where=where,
        )
