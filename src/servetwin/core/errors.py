"""The exceptions of servetwin: one root, one class per way to fail."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ServetwinError(Exception):
    """Root of every error that servetwin raises on purpose."""


class InputError(ServetwinError):
    """Something the user gave is wrong: a file, a key, a value, a line.

    Parameters
    ----------
    message
        What was given, what is allowed and what to do.
    where
        The place: a file, ``file:line`` or the dotted path of a key, outermost first.
    """

    def __init__(self, message: str, *, where: str | None = None) -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where


class StuckError(ServetwinError):
    """The simulation can make no progress; the message says who waits for what."""


class InvariantError(ServetwinError):
    """A check of the simulation's own state failed: a defect of servetwin or of a plug-in."""


def unknown_name(kind: str, name: object, known: Iterable[str], *, where: str | None = None) -> InputError:
    """Return the error for a name that does not exist, with the nearest match."""
    names = sorted(known)
    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    allowed = ", ".join(names) if len(names) <= 40 else ", ".join(names[:40]) + f", ... ({len(names)} in all)"
    return InputError(
        f"unknown {kind} {name!r}{hint} Allowed: {allowed}" if near else f"unknown {kind} {name!r}. Allowed: {allowed}",
        where=where,
    )
