"""Ways of KV between instances for tests: simple, and exact in integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WORK_PER_NS = 12
"""Work that a link does in a nanosecond; one to four transfers can share it without rounding."""


class ConstantTransfers:
    """Each transfer takes a latency and its tokens' time, whatever else is under way.

    Parameters
    ----------
    latency_ns, token_ns
        Nanoseconds of a transfer and of each of its tokens.
    """

    def __init__(self, latency_ns: int, token_ns: int) -> None:
        self._latency_ns = latency_ns
        self._token_ns = token_ns
        self._landings: list[tuple[int, int]] = []
        self._started = 0

    def start(self, now_ns: int, source: int, target: int, tokens: int) -> int:
        """Begin a transfer."""
        number = self._started
        self._started += 1
        self._landings.append((now_ns + self._latency_ns + self._token_ns * tokens, number))
        self._landings.sort()
        return number

    def next_event_ns(self) -> int | None:
        """Return when the next one lands."""
        return self._landings[0][0] if self._landings else None

    def advance(self, now_ns: int) -> Sequence[int]:
        """Return those that have landed, the earliest first."""
        landed = [number for landing_ns, number in self._landings if landing_ns <= now_ns]
        self._landings = self._landings[len(landed) :]
        return landed


@dataclass(slots=True, eq=False)
class _Transfer:
    number: int
    ends: frozenset[int]
    work: int


class SharedTransfers:
    """Transfers that have an instance in common slow each other down, and are faster again when one has landed.

    Parameters
    ----------
    latency_ns, token_ns
        Nanoseconds that a transfer and each of its tokens take where it is alone.
    """

    def __init__(self, latency_ns: int, token_ns: int) -> None:
        self._latency_ns = latency_ns
        self._token_ns = token_ns
        self._under_way: list[_Transfer] = []
        self._started = 0
        self._now_ns = 0

    def start(self, now_ns: int, source: int, target: int, tokens: int) -> int:
        """Begin a transfer; others may land later from now on."""
        self._work_until(now_ns)
        number = self._started
        self._started += 1
        work = WORK_PER_NS * (self._latency_ns + self._token_ns * tokens)
        self._under_way.append(_Transfer(number, frozenset((source, target)), work))
        return number

    def next_event_ns(self) -> int | None:
        """Return when the next one lands if no other begins before."""
        return min((self._now_ns + -(-t.work // self._speed(t)) for t in self._under_way), default=None)

    def advance(self, now_ns: int) -> Sequence[int]:
        """Return those that have landed, in the order in which they began."""
        self._work_until(now_ns)
        landed = [t.number for t in self._under_way if t.work == 0]
        self._under_way = [t for t in self._under_way if t.work > 0]
        return landed

    def _speed(self, transfer: _Transfer) -> int:
        sharing = sum(bool(transfer.ends & other.ends) for other in self._under_way)
        return max(1, WORK_PER_NS // sharing)

    def _work_until(self, now_ns: int) -> None:
        """Let work be done; nobody begins or lands between the last event and ``now_ns``."""
        speeds = [self._speed(t) for t in self._under_way]
        for transfer, speed in zip(self._under_way, speeds, strict=True):
            transfer.work = max(0, transfer.work - speed * (now_ns - self._now_ns))
        self._now_ns = now_ns


class HurriedTransfers(ConstantTransfers):
    """Each that begins makes all others land at once: what was expected later comes sooner.

    (A flow speeds another one up where it slows a third one down that shares a link with it.)
    """

    def start(self, now_ns: int, source: int, target: int, tokens: int) -> int:
        """Begin a transfer."""
        self._landings = [(min(now_ns, landing_ns), number) for landing_ns, number in self._landings]
        return super().start(now_ns, source, target, tokens)


class OverlappedTransfers(ConstantTransfers):
    """What could travel while the prompt was computed is there already; the latency remains."""

    overlaps = True

    def start(self, now_ns: int, source: int, target: int, tokens: int, *, produced_ns: int = 0) -> int:
        """Begin a transfer."""
        done = produced_ns // max(1, self._token_ns)
        return super().start(now_ns, source, target, max(0, tokens - done))
