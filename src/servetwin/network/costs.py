"""What collectives cost on a kind of link: few coefficients with a meaning, fitted or published.

The files in ``coefficients/`` are written by ``python -m servetwin.calibrate.fit_collectives``.
"""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.fields import Fields, read_document

FOLDER = Path(__file__).parent / "coefficients"

MIB = 2**20


def _coefficient(default: float, unit: str, low: float, high: float, meaning: str) -> Any:
    return field(default=default, metadata={"unit": unit, "low": low, "high": high, "meaning": meaning})


@dataclass(frozen=True, slots=True)
class CollectiveCosts:
    """Coefficients of one kind of link. Efficiencies are shares of the link's bandwidth.

    NCCL moves data by three protocols: LL (a flag in each 8 bytes), LL128 (one in each 128) and Simple (whole chunks,
    then a flag): from cheap steps at little bandwidth to dear ones at much.
    """

    start_ns: float = _coefficient(0, "ns", 0, 40000, "A collective's kernel: launch, set-up, end.")
    ll_step_ns: float = _coefficient(0, "ns", 0, 20000, "A step of protocol LL.")
    ll_efficiency: float = _coefficient(1, "share", 0.01, 0.5, "Bandwidth of protocol LL: half of all bytes are flags.")
    ll128_step_ns: float = _coefficient(0, "ns", 0, 20000, "A step of protocol LL128.")
    ll128_efficiency: float = _coefficient(1, "share", 0.05, 0.9375, "Bandwidth of protocol LL128.")
    simple_start_ns: float = _coefficient(0, "ns", 0, 80000, "What protocol Simple needs more to start.")
    simple_step_ns: float = _coefficient(0, "ns", 0, 20000, "A step of protocol Simple.")
    simple_efficiency: float = _coefficient(1, "share", 0.1, 1, "Bandwidth of protocol Simple.")
    local_speed: float = _coefficient(math.inf, "x link", 0.5, 100, "Speed at which a rank handles its own part.")
    send_start_ns: float = _coefficient(0, "ns", 0, 40000, "Sends among ranks, protocol LL: their kernel.")
    send_gb_per_s: float = _coefficient(math.inf, "GB/s", 0.1, 1000, "Sends, protocol LL: rate to one peer.")
    send_simple_start_ns: float = _coefficient(0, "ns", 0, 80000, "Sends, protocol Simple: their kernel.")
    send_efficiency: float = _coefficient(1, "share", 0.1, 1, "Sends, protocol Simple: bandwidth over all peers.")
    switch_start_ns: float = _coefficient(0, "ns", 0, 80000, "A collective in the switch: its kernel.")
    switch_efficiency: float = _coefficient(1, "share", 0.1, 1, "A collective in the switch: bandwidth.")
    one_kernel_start_ns: float = _coefficient(0, "ns", 0, 40000, "An engine's own all-reduce: its kernel.")
    one_kernel_step_ns: float = _coefficient(0, "ns", 0, 20000, "An engine's own all-reduce: a meeting of all ranks.")
    one_kernel_efficiency: float = _coefficient(1, "share", 0.1, 1, "An engine's own all-reduce: bandwidth.")

    ONE_KERNEL_BYTES = 8 * MIB
    """vLLM 0.19 (``CustomAllreduce.max_size``): larger tensors go to NCCL."""

    @property
    def protocols(self) -> tuple[tuple[float, float, float], ...]:
        """LL, LL128 and Simple as (start, step, efficiency)."""
        return (
            (self.start_ns, self.ll_step_ns, self.ll_efficiency),
            (self.start_ns, self.ll128_step_ns, self.ll128_efficiency),
            (self.start_ns + self.simple_start_ns, self.simple_step_ns, self.simple_efficiency),
        )


PLAIN = CollectiveCosts()
"""No protocols: a message is latency and size over bandwidth."""


def plain_costs(operation_ns: float) -> CollectiveCosts:
    """Return the costs of a link that is known by its own figures only."""
    return CollectiveCosts(
        start_ns=operation_ns,
        send_start_ns=operation_ns,
        send_simple_start_ns=operation_ns,
        switch_start_ns=operation_ns,
        one_kernel_start_ns=operation_ns,
    )


@cache
def link_costs(name: str) -> CollectiveCosts:
    """Return the coefficients called ``name`` (a file in ``coefficients/``).

    Raises
    ------
    InputError
        If there are none; it names the nearest match and what exists.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise unknown_name("collective costs", name, (file.stem for file in FOLDER.glob("*.yaml")))
    return read_costs(read_document(path), where=str(path))


def read_costs(data: object, *, where: str) -> CollectiveCosts:
    """Return the coefficients of a document with ``source`` (texts) and ``coefficients`` (all of them, in bounds).

    Raises
    ------
    InputError
        If a coefficient is missing, unknown or out of bounds.
    """
    document = Fields(data, where)
    document.texts("source")
    coefficients = document.child("coefficients")
    found = {item.name: _bounded(item, coefficients.raw(item.name), where) for item in fields(CollectiveCosts)}
    coefficients.refuse_others()
    document.refuse_others()
    return CollectiveCosts(**found)


def _bounded(item: Field[Any], value: object, where: str) -> float:
    low, high = item.metadata["low"], item.metadata["high"]
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    raise InputError(
        f"{item.name} must be from {low:g} to {high:g} {item.metadata['unit']}, got {value!r}", where=where
    )
