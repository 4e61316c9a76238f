"""How much of a data sheet's figures real kernels reach, and what a kernel costs however small: few numbers per family.

The numbers are fitted (`servetwin.calibrate.fit_roofline`) and stand in ``efficiencies/<family>.yaml``, with what they
were fitted on. They are the same for all models; only hardware tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.fields import Fields, read_document

FOLDER = Path(__file__).parent / "efficiencies"
GENERIC = "generic"
"""The file for devices whose family has none of its own."""


def _share(default: float, meaning: str) -> float:
    return field(default=default, metadata={"unit": "share", "low": 0.05, "high": 1.0, "meaning": meaning})


def _us(default: float, high: float, meaning: str) -> float:
    return field(default=default, metadata={"unit": "us", "low": 0.0, "high": high, "meaning": meaning})


@dataclass(frozen=True, slots=True)
class Efficiency:
    """The coefficients of the roofline; defaults are those of a middling device.

    Shares are of the data sheet's peak or bandwidth, so that nothing can be faster than the hardware. Times are those
    that remain of a kernel whose work is nothing: start within a CUDA graph, ramp, tail.
    """

    matrix_us: float = _us(2.5, 50, "Matrix product: fixed cost.")
    matrix_compute: float = _share(0.8, "Matrix product: share of the peak that full tiles reach.")
    matrix_bandwidth: float = _share(0.85, "Matrix product and elementwise kernels: share of the memory's bandwidth.")
    quantized_us: float = _us(6.0, 50, "Product with weights of 8 bits or fewer, quantising its input: fixed cost.")
    quantized_compute: float = _share(0.55, "The same: share of the peak.")
    quantized_bandwidth: float = _share(0.7, "The same: share of the bandwidth.")
    experts_us: float = _us(10.0, 200, "Product of the routed experts, with sorting of its rows: fixed cost.")
    expert_us: float = _us(0.1, 20, "The same: for each expert that gets a row.")
    experts_compute: float = _share(0.6, "Product of the routed experts: share of the peak.")
    experts_bandwidth: float = _share(0.8, "Product of the routed experts: share of the bandwidth.")
    prefill_us: float = _us(10.0, 100, "Attention over a prompt chunk: fixed cost per layer.")
    prefill_tile_us: float = _us(2.5, 50, "The same: per tile of 128 queries that a multiprocessor works on.")
    prefill_compute: float = _share(0.6, "The same: share of the peak, at heads of 128 elements.")
    prefill_narrow: float = _share(0.85, "The same: share of that which heads of 64 elements reach.")
    prefill_bandwidth: float = _share(0.5, "The same: share of the bandwidth.")
    decode_us: float = _us(10.0, 100, "Attention of decodes: fixed cost per layer, combining split results included.")
    decode_item_us: float = _us(3.0, 50, "The same: per sequence and KV head that a multiprocessor works on.")
    decode_bandwidth: float = _share(0.85, "The same: share of the bandwidth.")
    decode_fp8_bandwidth: float = _share(0.8, "The same with a KV cache of 8 bits, which is expanded on the way.")
    mixed_bandwidth: float = _share(
        1.0, "Attention of decodes beside a prompt's chunk: share of what they reach alone."
    )
    element_us: float = _us(2.0, 50, "Elementwise kernel (norm, activation, rotary embedding): fixed cost.")
    layer_us: float = _us(15.0, 200, "Per layer: gaps between kernels, KV writes, what else tables of kernels miss.")
    collective_bandwidth: float = _share(0.4, "Collective on a plain ring: share of the link's bandwidth.")

    def __post_init__(self) -> None:
        for item in fields(self):
            value, low, high = getattr(self, item.name), item.metadata["low"], item.metadata["high"]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and low <= value <= high:
                continue
            unit = "" if item.metadata["unit"] == "share" else " us"
            raise InputError(f"efficiency {item.name} must be from {low:g} to {high:g}{unit}, got {value!r}")

    def changed(self, changes: Mapping[str, float]) -> Efficiency:
        """Return a copy with some coefficients changed; an unknown name is an InputError."""
        names = [item.name for item in fields(self)]
        for name in changes:
            if name not in names:
                raise unknown_name("efficiency", name, names)
        return replace(self, **changes)


def family_names() -> list[str]:
    """Return the families of devices that have coefficients of their own, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != GENERIC)


@cache
def family_efficiency(family: str | None) -> Efficiency:
    """Return the coefficients of a family of devices; those of `GENERIC` where it has none of its own.

    Raises
    ------
    InputError
        If a file is not what it should be.
    """
    path = FOLDER / f"{family if family in family_names() else GENERIC}.yaml"
    return read_efficiency(read_document(path), where=str(path))


def read_efficiency(data: object, *, where: str) -> Efficiency:
    """Return the coefficients of a document with ``fitted_on`` (texts) and ``coefficients`` (all of them)."""
    document = Fields(data, where)
    document.texts("fitted_on")
    coefficients = document.child("coefficients")
    found: dict[str, Any] = {item.name: coefficients.raw(item.name) for item in fields(Efficiency)}
    coefficients.refuse_others()
    document.refuse_others()
    try:
        return Efficiency(**found)
    except InputError as error:
        raise InputError(str(error), where=where) from None
