"""Which models measured profiles can hold."""

from __future__ import annotations

from servetwin.core.errors import InputError
from servetwin.llm.base import ModelArchitecture

NOT_PROFILED = frozenset({"a mixture of experts", "latent attention (MLA)", "windowed attention", "quantised weights"})
"""Entries of `ModelArchitecture.features` for which measured profiles have no tables yet."""


def check_profiled(model: ModelArchitecture, *, where: str | None = None) -> None:
    """Raise an InputError if ``model`` has what no measured profile can hold."""
    missing = [feature for feature in model.features if feature in NOT_PROFILED]
    if missing:
        raise InputError(
            f"{model.name} ({model.model_type}) has {' and '.join(missing)}, for which measured profiles have no "
            "tables yet; step: {model: roofline} can time it",
            where=where,
        )
