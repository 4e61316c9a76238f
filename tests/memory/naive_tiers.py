"""Eviction policies written plainly, one chunk at a time, to compare the tiers with."""

from __future__ import annotations

from collections.abc import Sequence


class NaiveStore:
    """Holds chunks; looks at each of them for everything."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.before: dict[int, int] = {}
        self.pins: list[int] = []
        self.clock = 0

    def peek(self, keys: Sequence[int], first: int = 0) -> int:
        """Count the chunks from ``first`` on that are held without a gap."""
        place = first
        while place < len(keys) and keys[place] in self.before:
            place += 1
        return place - first

    def lookup(self, keys: Sequence[int]) -> int:
        """Look up and use a prompt."""
        found = self.peek(keys)
        if found:
            self.use(keys[:found])
        return found

    def insert(self, keys: Sequence[int]) -> list[int]:
        """Store a prompt; return what went for it, in order."""
        keys = keys[: self.capacity]
        absent = [key for key in keys if key not in self.before]
        held = [key for key in keys if key in self.before]
        self.pins += held
        gone, fits = [], []
        for key in absent:
            if len(self.before) + len(fits) == self.capacity:
                victim = self.choose(key)
                if victim is None:
                    break
                self.drop(victim)
                gone.append(victim)
            fits.append(key)
        for key in held:
            self.pins.remove(key)
        for key in reversed(fits):
            place = keys.index(key)
            self.before[key] = keys[place - 1] if place else -1
            self.enter(key)
        if found := self.peek(keys):
            self.use(keys[:found])
        return gone

    def use(self, keys: Sequence[int]) -> None:
        """Note that chunks were used."""
        raise NotImplementedError

    def enter(self, key: int) -> None:
        """Note that a chunk came in."""

    def choose(self, incoming: int) -> int | None:
        """Choose what goes."""
        raise NotImplementedError

    def drop(self, key: int) -> None:
        """Hold a chunk no longer."""
        del self.before[key]


class NaiveLru(NaiveStore):
    """A list of chunks, the least recent first; a prompt's deepest chunk is moved first."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.order: list[int] = []

    def use(self, keys: Sequence[int]) -> None:
        """Move chunks to the end."""
        for key in reversed(keys):
            if key in self.order:
                self.order.remove(key)
            self.order.append(key)

    def choose(self, incoming: int) -> int | None:
        """Choose the first that may go."""
        return next((key for key in self.order if key not in self.pins), None)

    def drop(self, key: int) -> None:
        """Take a chunk out of the list."""
        super().drop(key)
        self.order.remove(key)


class NaiveLfu(NaiveStore):
    """A count and a time for each chunk; chunks that others come behind stay."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.uses: dict[int, int] = {}
        self.latest: dict[int, int] = {}

    def use(self, keys: Sequence[int]) -> None:
        """Count each chunk."""
        self.clock += 1
        for key in keys:
            self.uses[key] = self.uses.get(key, 0) + 1
            self.latest[key] = self.clock

    def choose(self, incoming: int) -> int | None:
        """Choose the least used leaf."""
        leaves = [key for key in self.before if key not in self.before.values() and key not in self.pins]
        return min(leaves, key=lambda key: (self.uses[key], self.latest[key]), default=None)

    def drop(self, key: int) -> None:
        """Forget a chunk's count."""
        super().drop(key)
        del self.uses[key], self.latest[key]


class NaiveS3Fifo(NaiveStore):
    """Three lists, the oldest first."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.small: list[int] = []
        self.main: list[int] = []
        self.ghosts: list[int] = []
        self.uses: dict[int, int] = {}
        self.share = max(1, int(capacity * 0.1))

    def use(self, keys: Sequence[int]) -> None:
        """Count up to 3."""
        for key in keys:
            self.uses[key] = min(3, self.uses[key] + 1)

    def enter(self, key: int) -> None:
        """Enter the main list from the ghosts, else the small one."""
        self.uses[key] = 0
        if key in self.ghosts:
            self.ghosts.remove(key)
            self.main.append(key)
        else:
            self.small.append(key)

    def choose(self, incoming: int) -> int | None:
        """Try the small list first if it is full, else the main one."""
        tries = [self.evict_small, self.evict_main]
        for evict in tries if len(self.small) >= self.share else tries[::-1]:
            victim = evict()
            if victim is not None:
                return victim
        return None

    def evict_small(self) -> int | None:
        """Go once through the small list."""
        for key in list(self.small):
            self.small.remove(key)
            if self.uses[key] > 1:
                self.uses[key] = 0
                self.main.append(key)
            elif key in self.pins:
                self.small.append(key)
            else:
                self.ghosts.append(key)
                self.ghosts = self.ghosts[-max(1, self.capacity - self.share) :]
                return key
        return None

    def evict_main(self) -> int | None:
        """Go through the main list until one has no uses left."""
        for _ in range(4 * len(self.main)):
            key = self.main.pop(0)
            if self.uses[key] == 0 and key not in self.pins:
                return key
            self.uses[key] = max(0, self.uses[key] - 1)
            self.main.append(key)
        return None


class NaiveArc(NaiveStore):
    """Four lists, the least recent first, as the paper's figure has them."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.t1: list[int] = []
        self.t2: list[int] = []
        self.b1: list[int] = []
        self.b2: list[int] = []
        self.p = 0.0
        self.known: set[int] = set()

    def use(self, keys: Sequence[int]) -> None:
        """Go to the end of T2."""
        for key in reversed(keys):
            for part in (self.t1, self.t2):
                if key in part:
                    part.remove(key)
            self.t2.append(key)

    def meet(self, key: int) -> None:
        """Adapt to a ghost that comes back."""
        if key in self.b1:
            self.p = min(self.capacity, self.p + max(1.0, len(self.b2) / len(self.b1)))
            self.b1.remove(key)
            self.known.add(key)
        elif key in self.b2:
            self.p = max(0.0, self.p - max(1.0, len(self.b1) / len(self.b2)))
            self.b2.remove(key)
            self.known.add(key)

    def choose(self, incoming: int) -> int | None:
        """Replace."""
        in_b2 = incoming in self.b2
        self.meet(incoming)
        from_t1 = bool(self.t1) and (len(self.t1) > self.p or (in_b2 and len(self.t1) == self.p))
        parts = [(self.t1, self.b1), (self.t2, self.b2)]
        for part, ghosts in parts if from_t1 else parts[::-1]:
            for key in part:
                if key not in self.pins:
                    part.remove(key)
                    ghosts.append(key)
                    return key
        return None

    def enter(self, key: int) -> None:
        """Enter T2 if it was a ghost, else T1."""
        self.meet(key)
        (self.t2 if key in self.known else self.t1).append(key)
        self.known.discard(key)
        while self.b1 and len(self.t1) + len(self.b1) > self.capacity:
            self.b1.pop(0)
        while self.b2 and len(self.t1) + len(self.t2) + len(self.b1) + len(self.b2) > 2 * self.capacity:
            self.b2.pop(0)
