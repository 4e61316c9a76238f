"""Units: integer nanoseconds for time, 10**9 bytes per second for GB/s, 2**30 bytes for GiB."""

from __future__ import annotations

NS_PER_US = 1_000
NS_PER_S = 1_000_000_000
GB = 10**9
GIB = 2**30


def seconds_to_ns(seconds: float) -> int:
    """Return ``seconds`` in whole nanoseconds, rounded to the nearest."""
    return round(seconds * NS_PER_S)


def us_to_ns(microseconds: float) -> int:
    """Return ``microseconds`` in whole nanoseconds, rounded to the nearest."""
    return round(microseconds * NS_PER_US)
