"""The contract of an eviction policy of a KV tier, and the chunks that a tier holds."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Protocol

from servetwin.core.registry import Registry

NO_CHUNK = -1
"""In place of the chunk before a prompt's first one."""


class ChunkTree:
    """The chunks that a tier holds, each with the one before it in its prompt.

    A chunk's key stands for its tokens and all before them, so it has one predecessor only.

    Attributes
    ----------
    before
        Key of each held chunk ► key of the chunk before it (held or not), ``NO_CHUNK`` for a first one.
    followers
        Key of a chunk ► how many held chunks come right behind it, where that is not as usual: 1 for a chunk that is
        held, 0 for one that is not.
    gaps
        How many held chunks have a predecessor that is not held. Where it is 0, what is held of a prompt is a prefix.
    """

    def __init__(self) -> None:
        self.before: dict[int, int] = {}
        self.followers: dict[int, int] = {}
        self.gaps = 0

    def add(self, key: int, before: int) -> None:
        """Hold a chunk that is not held."""
        followers = self.followers.pop(key, 0)
        self.before[key] = before
        self.gaps -= followers
        self._set_followers(key, followers, 1)
        self._add_follower(before)

    def add_chain(self, keys: Sequence[int], before: int) -> None:
        """Hold chunks that come one behind the other and are not held; there must be no gaps."""
        self._add_follower(before)
        held = self.before
        for key in keys:
            held[key] = before
            before = key
        self.followers[before] = 0

    def _add_follower(self, before: int) -> None:
        """Count a chunk that has come in behind another."""
        if before == NO_CHUNK:
            return
        usual = int(before in self.before)
        self.gaps += 1 - usual
        self._set_followers(before, self.followers.pop(before, usual) + 1, usual)

    def _set_followers(self, key: int, followers: int, usual: int) -> None:
        if followers != usual:
            self.followers[key] = followers

    def remove(self, key: int) -> int:
        """Hold a chunk no longer; return the one before it."""
        before = self.before.pop(key)
        followers = self.followers.pop(key, 1)
        self.gaps += followers
        self._set_followers(key, followers, 0)
        if before != NO_CHUNK:
            usual = int(before in self.before)
            self.gaps -= 1 - usual
            self._set_followers(before, self.followers.pop(before, usual) - 1, usual)
        return before

    def is_last(self, key: int) -> bool:
        """Return whether a chunk is held and none behind it."""
        return self.followers.get(key, 1) == 0 and key in self.before


class Eviction(Protocol):
    """Decides which chunks a full tier gives up.

    It sees what is held (``tree``) and removes nothing but its victims.

    Factories take ``(tree: ChunkTree, capacity_chunks: int)`` and their own options by keyword.
    """

    keeps_prefixes: bool
    """Whether it never gives up a chunk before all held ones behind it. Then a pin on a prompt's last chunk holds all
    those before it, and lookups need not look at each chunk."""

    def added(self, keys: Sequence[int]) -> None:
        """Learn that chunks of a prompt, in order, are held now; the tree has them already.

        The last one counts as the oldest of them. `used` is called next, for a part that ends with the last one or
        behind it.
        """
        ...

    def used(self, keys: Sequence[int], count: int) -> None:
        """Learn that a prompt's first ``count`` chunks were used, as far as they are held; the last one is."""
        ...

    def victims(self, pinned: Container[int], incoming: Sequence[int]) -> list[tuple[int, int]]:
        """Choose held chunks that are not pinned, one for each of ``incoming``, as far as there are any.

        Each is removed from the tree (`ChunkTree.remove`) before the next one is chosen.

        Returns
        -------
        list of (int, int)
            The key of the chunk before, and its own.
        """
        ...


def one_by_one(
    tree: ChunkTree,
    victim: Callable[[Container[int], int], int | None],
    pinned: Container[int],
    incoming: Sequence[int],
) -> list[tuple[int, int]]:
    """Return the victims of a policy that chooses each by itself; None from it: there are no more."""
    gone = []
    for key in incoming:
        chosen = victim(pinned, key)
        if chosen is None:
            break
        gone.append((tree.remove(chosen), chosen))
    return gone


evictions: Registry[Eviction] = Registry("eviction")
