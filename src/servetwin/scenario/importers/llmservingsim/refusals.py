"""What changes timing and is not modelled yet: refused by name, so that no result pretends."""

from __future__ import annotations

from servetwin.core.errors import InputError


def not_modelled(where: str, what: str, feature: str) -> InputError:
    """Return the error for something that a later version will model."""
    message = f"{what} is not modelled yet ({feature}); remove it to simulate the deployment without"
    return InputError(message, where=where)
