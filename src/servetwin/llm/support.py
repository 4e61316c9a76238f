"""What can be described but not simulated yet, and the error that says so."""

from __future__ import annotations

from servetwin.core.errors import InputError
from servetwin.llm.base import ModelArchitecture

NOT_SIMULATED = frozenset({"a mixture of experts", "latent attention (MLA)", "windowed attention", "quantised weights"})
"""Entries of `ModelArchitecture.features` for which there are no step times yet."""


def check_simulated(model: ModelArchitecture, *, where: str | None = None) -> None:
    """Raise an InputError if ``model`` has what no step model can time yet."""
    missing = [feature for feature in model.features if feature in NOT_SIMULATED]
    if missing:
        raise InputError(
            f"{model.name} ({model.model_type}) has {' and '.join(missing)}, which can be described (`servetwin list "
            "models`) but not simulated yet; models without are",
            where=where,
        )
