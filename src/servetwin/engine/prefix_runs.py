"""Runs of blocks that can be found by their keys: a tree, as long as a prompt has branches, not blocks."""

from __future__ import annotations

from collections.abc import Sequence


class Run:
    """Blocks of one chain, one behind the other, that the same requests reference.

    Attributes
    ----------
    keys
        Keys of a sequence of which these are the blocks ``first`` to ``stop - 1``. Equal keys mean equal blocks from
        the start on, so they are those of every sequence that goes through this run.
    parent
        The run before it; the root's is None.
    children
        The runs behind it by the key of their first block.
    references
        Requests that hold all its blocks.
    """

    __slots__ = ("children", "first", "keys", "parent", "references", "stop")

    def __init__(self, keys: Sequence[int], first: int, stop: int, parent: Run | None) -> None:
        self.keys = keys
        self.first = first
        self.stop = stop
        self.parent = parent
        self.children: dict[int, Run] = {}
        self.references = 0

    def matched(self, keys: Sequence[int], limit: int) -> int:
        """Return at which block ``keys`` leave this run (they enter it), at most ``limit``."""
        own = self.keys
        low, high = self.first + 1, min(self.stop, limit)
        if own is keys or own[high - 1] == keys[high - 1]:
            return high
        while low < high - 1:  # blocks before low are equal, that before high is not
            middle = (low + high) // 2
            if own[middle - 1] == keys[middle - 1]:
                low = middle
            else:
                high = middle
        return low

    def split(self, at: int) -> Run:
        """Cut the blocks before ``at`` off, as a new run between this one and its parent; return that."""
        parent = self.parent
        assert parent is not None  # the root has no blocks
        head = Run(self.keys, self.first, at, parent)
        head.references = self.references
        head.children[self.keys[at]] = self
        parent.children[self.keys[self.first]] = head
        self.first = at
        self.parent = head
        return head

    def join_parent(self) -> None:
        """Take in the parent, of which this is the only child."""
        parent = self.parent
        assert parent is not None
        self.first = parent.first
        self.parent = parent.parent
        assert self.parent is not None
        self.parent.children[self.keys[self.first]] = self

    def forget(self) -> None:
        """Leave the tree."""
        assert self.parent is not None
        del self.parent.children[self.keys[self.first]]
