"""Names for implementations: built in, registered by a user, or found through entry points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from servetwin.core.errors import unknown_name

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


class Registry(Generic[T]):
    """The implementations of one extension point, by name.

    Parameters
    ----------
    kind
        What is registered, in the singular ("router"); the entry-point group is ``servetwin.<kind>``, with ``_`` for
        spaces.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._factories: dict[str, Callable[..., T]] = {}
        self._plugins_loaded = False

    def register(self, name: str) -> Callable[[F], F]:
        """Return a decorator that registers a class or factory under ``name``."""

        def decorate(factory: F) -> F:
            if name in self._factories and self._factories[name] is not factory:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._factories[name] = factory  # type: ignore[assignment]
            return factory

        return decorate

    def get(self, name: str, *, where: str | None = None) -> Callable[..., T]:
        """Return the factory called ``name``.

        Raises
        ------
        InputError
            If there is none; it names the nearest match and what exists.
        """
        if name not in self._factories:
            self._load_plugins()
        if name not in self._factories:
            raise unknown_name(self.kind, name, self._factories, where=where)
        return self._factories[name]

    def names(self) -> list[str]:
        """Return all names, sorted."""
        self._load_plugins()
        return sorted(self._factories)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in entry_points(group=f"servetwin.{self.kind.replace(' ', '_')}"):
            self._factories.setdefault(point.name, point.load())
