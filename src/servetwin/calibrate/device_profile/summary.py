"""What a profile says at a glance: the best rate of each operator, and what share of the data sheet that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from servetwin.calibrate.device_profile.points import point_work
from servetwin.calibrate.device_profile.table import DeviceProfile, Measurement
from servetwin.hardware.base import Device
from servetwin.hardware.catalogue import load_device

Row = dict[str, object]

BEYOND_CACHES = 2**27
"""Smaller points may be served from caches and say nothing of the memory; they count where there are no larger ones."""


def summary_rows(profile: DeviceProfile) -> list[Row]:
    """Return one row per operator and format (direction, mode, state): the best rate, and its share of the data sheet.

    Rates are TFLOP/s for products and attention over a prompt, GB/s for what memory bounds, microseconds for launches
    and watts for power. The share is None where the device is not in the catalogue or states no such figure.
    """
    device = load_device(profile.header.catalogue) if profile.header.catalogue else None
    rows: list[Row] = []
    for operator, found in profile.rows.items():
        for word, group in _by_word(found).items():
            rows.append({"operator": operator, "of": word, **_best(operator, word, group, device)})
    return rows


def _by_word(rows: Iterable[Measurement]) -> Mapping[str, list[Measurement]]:
    groups: dict[str, list[Measurement]] = {}
    for row in rows:
        groups.setdefault(str(row.point.keys[0]), []).append(row)
    return groups


def _best(operator: str, word: str, rows: list[Measurement], device: Device | None) -> Row:
    if operator in ("launch", "power"):
        value = min(row.statistics.median for row in rows)
        return {"best": value, "unit": "us" if operator == "launch" else "W", "share": None, "points": len(rows)}
    computes = operator in ("gemm", "grouped_gemm", "attention_prefill")
    large = [row for row in rows if point_work(row.point).num_bytes >= BEYOND_CACHES]
    rate = max(_rate(row, computes=computes) for row in rows if computes or row in large or not large)
    limit = _limit(device, word, computes=computes)
    return {
        "best": rate / (1e12 if computes else 1e9),
        "unit": "TFLOP/s" if computes else "GB/s",
        "share": None if limit is None else rate / limit,
        "points": len(rows),
    }


def _rate(row: Measurement, *, computes: bool) -> float:
    flops, num_bytes = point_work(row.point)
    return (flops if computes else num_bytes) / row.statistics.median * 1e6


def _limit(device: Device | None, word: str, *, computes: bool) -> float | None:
    """Return the data sheet's figure that bounds the rate."""
    if device is None:
        return None
    if computes:
        return device.peak_flops.get(word)
    if word in ("host_to_device", "device_to_host"):
        return device.pcie.bandwidth_bytes_per_s if device.pcie else None
    return device.memory_bandwidth_bytes_per_s
