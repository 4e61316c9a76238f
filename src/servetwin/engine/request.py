"""A request while it is in flight on an instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servetwin.engine.prefix_cache import Block
    from servetwin.engine.prefix_runs import Run

LOCAL, WANTED, LOADING, LANDED, RECALLED = range(5)
"""Where a request's KV comes from: it is computed here, or comes from another instance or from tiers (and how far
that is)."""

NO_KEYS: Sequence[int] = ()
NO_BLOCKS: list[Block] = []
"""Of a request that no cache of single blocks has seen; never changed."""


class Request:
    """One request on one instance, from arrival to its end.

    Attributes
    ----------
    arrival_ns
        When it came to the instance.
    order_key
        Place in the waiting queue, smallest first.
    known_tokens
        Prompt and generated tokens when its current prefill began; the prefill ends when all are computed.
    computed_tokens
        Tokens whose KV is there, while it prefills.
    generated_tokens
        Output tokens so far, without those of the current stay in the cohort.
    lost_tokens
        Tokens whose KV a preemption threw away and that were not computed again yet.
    admission
        Number of its latest admission: its place in the running order.
    num_blocks
        KV blocks it holds, while it prefills (in the cohort it follows from the context).
    run, blocks
        Of these, the first ones that the prefix cache can find: the last of its runs (None: no run), and the single
        blocks behind it.
    base, start_round, finish_round, lane
        In the cohort: its context is ``base`` + the cohort's rounds; when it came, when it will finish, which cohort.
    remote
        Whether KV comes from another instance: no, wanted, loading, landed; or has come from tiers.
    chunk_keys, saved_chunks
        Where there are KV tiers: keys of its chunks, and how many of the first ones it has saved since its admission.
    in_flight
        While it prefills in a pipeline: batches in flight that compute one of its chunks.
    """

    __slots__ = (
        "admission",
        "arrival_ns",
        "base",
        "blocks",
        "chunk_keys",
        "computed_tokens",
        "finish_round",
        "generated_tokens",
        "in_flight",
        "keys",
        "known_tokens",
        "lane",
        "lost_tokens",
        "num_blocks",
        "order_key",
        "output_tokens",
        "prefilling",
        "prompt_tokens",
        "remote",
        "row",
        "run",
        "saved_chunks",
        "start_round",
    )

    def __init__(
        self, row: int, order_key: tuple[int, ...], prompt_tokens: int, output_tokens: int, arrival_ns: int = 0
    ) -> None:
        self.row = row
        self.arrival_ns = arrival_ns
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.order_key = order_key
        self.keys = NO_KEYS
        self.chunk_keys = NO_KEYS
        self.saved_chunks = 0
        self.known_tokens = prompt_tokens
        self.computed_tokens = 0
        self.generated_tokens = 0
        self.lost_tokens = 0
        self.admission = 0
        self.num_blocks = 0
        self.run: Run | None = None
        self.blocks = NO_BLOCKS
        self.prefilling = True
        self.base = 0
        self.start_round = 0
        self.finish_round = 0
        self.lane = 0
        self.in_flight = 0
        self.remote = LOCAL

    def __lt__(self, other: Request) -> bool:
        return self.order_key < other.order_key
