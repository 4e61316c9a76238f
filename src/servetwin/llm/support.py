"""Which models measured profiles can hold."""

from __future__ import annotations

from servetwin.core.errors import InputError
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.parts import MixtureOfExperts

NOT_PROFILED = frozenset({"latent attention (MLA)", "quantised weights"})
"""Entries of `ModelArchitecture.features` for which measured profiles have no tables."""


def check_profiled(model: ModelArchitecture, *, where: str | None = None) -> None:
    """Raise an InputError if ``model`` has what no measured profile can hold.

    A profile has one table per operator, so that all layers must be alike; tables of experts are of routed ones alone.
    """
    missing = [feature for feature in model.features if feature in NOT_PROFILED]
    if len({layer.mlp for layer in model.layer_sequence}) > 1:
        missing.append("layers with different MLPs or experts")
    if len({layer.attention.window for layer in model.layer_sequence}) > 1:
        missing.append("attention windows that differ from layer to layer")
    if any(isinstance(layer.mlp, MixtureOfExperts) and layer.mlp.shared_intermediate_size for layer, _ in model.layers):
        missing.append("shared experts")
    if missing:
        raise InputError(
            f"{model.name} ({model.model_type}) has {' and '.join(missing)}, for which measured profiles have no "
            "tables yet; step: {model: roofline} can time it",
            where=where,
        )
