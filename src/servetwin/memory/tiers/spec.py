"""What the tiers of an instance are: descriptions, from which each simulation builds its own stores and queues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from servetwin.core.errors import InputError
from servetwin.core.units import NS_PER_S

Saves: TypeAlias = Literal["prompt", "all"]
"""Which complete chunks are saved: those of the prompt, or those of generated tokens, too."""

Load: TypeAlias = Literal["blocking", "async"]
"""Whether the step that lets a request in waits for its recall, or the request waits and steps go on."""


Preempted: TypeAlias = Literal["recompute", "swap"]
"""What becomes of a preempted request's KV: it is lost, or its whole chunks are written to the first tier."""


@dataclass(frozen=True, slots=True, eq=False)
class TierDevice:
    """What reads and writes chunks, each in a queue of its own. Whoever names the same object shares its queues.

    Attributes
    ----------
    latency_ns
        Of each read or write.
    bytes_per_s
        Of reads, and as much of writes; None: no time beyond the latency.
    copies
        How often each read is carried out, one after the other (LLMServingSim: once by every accelerator).
    """

    latency_ns: int = 0
    bytes_per_s: float | None = None
    copies: int = 1

    def duration_ns(self, num_bytes: int) -> int:
        """Return how long one read or write of so many bytes takes."""
        moving_ns = round(num_bytes * NS_PER_S / self.bytes_per_s) if self.bytes_per_s else 0
        return self.latency_ns + moving_ns


@dataclass(frozen=True, slots=True, eq=False)
class TierSpec:
    """One tier. Instances whose descriptions hold the same object share what it stores.

    Attributes
    ----------
    name
        For results and errors.
    kind
        ``host``, ``cxl``, ``ssd`` or ``remote``.
    capacity_chunks
        How many chunks it holds; None: as many as come.
    chunk_bytes
        Of one chunk's KV over all ranks of an instance.
    lookup_ns
        How long it takes to ask whether it holds chunks of a request; requests of a step are asked for in turn.
    eviction
        Name of the policy.
    """

    name: str
    kind: str
    capacity_chunks: int | None
    chunk_bytes: int
    lookup_ns: int = 0
    eviction: str = "lru"


@dataclass(frozen=True, slots=True)
class TiersSpec:
    """The tiers of one instance, and how it uses them.

    Attributes
    ----------
    tiers
        The fastest first.
    devices
        What reads and writes each of them for this instance.
    chunk_tokens
        Tokens of a chunk: a multiple of the instance's block size.
    write
        ``through``: to every tier; ``back``: to the first one, and on to the next one when that gives a chunk up.
    saves
        Which chunks are written.
    load
        Who waits for a recall.
    instant_writes
        Whether a chunk can be found as soon as the step has ended that computed it (LLMServingSim); else when it has
        been written. Writes never hold a step up.
    promote
        Whether what was recalled is held by the faster tiers, too.
    preempted
        What becomes of a preempted request's KV; the step that preempts it waits for a swap.
    """

    tiers: tuple[TierSpec, ...]
    devices: tuple[TierDevice, ...]
    chunk_tokens: int
    write: Literal["through", "back"] = "through"
    saves: Saves = "prompt"
    load: Load = "blocking"
    instant_writes: bool = False
    promote: bool = True
    preempted: Preempted = "recompute"

    def check(self, block_size: int, where: str) -> None:
        """Raise if chunks are no whole blocks.

        Raises
        ------
        InputError
            Naming both sizes.
        """
        if self.chunk_tokens % block_size:
            raise InputError(
                f"a chunk of {self.chunk_tokens} tokens is no whole number of blocks of {block_size}", where=where
            )
