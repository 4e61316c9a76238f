"""The lines of ``servetwin run`` on power, cost and carbon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def energy_lines(summary: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each of energy, cost and carbon that a run reckons."""
    if "energy" in summary:
        energy = summary["energy"]
        per_token = energy["j_per_output_token"]
        text = "" if per_token is None else f", {per_token:,.3g} J per output token"
        powers = f"{energy['average_w']:,.0f} W on average, peak {energy['peak_w']:,.0f} W"
        yield f"power {powers}; {energy['kwh']:,.4g} kWh{text}"
    if "cost" in summary:
        cost = summary["cost"]
        prices = (cost["per_million_input_tokens"], cost["per_million_output_tokens"])
        texts = ["-" if price is None else f"{price:,.3g}" for price in prices]
        yield (
            f"cost {cost['total']:,.4g} {cost['currency']}; {texts[0]} per million input tokens, "
            f"{texts[1]} per million output tokens"
        )
    if "carbon" in summary:
        carbon = summary["carbon"]
        made = f"{carbon['embodied_g']:,.3g} g from making the hardware"
        yield f"emissions {carbon['total_g']:,.4g} g CO2 equivalent ({made})"
