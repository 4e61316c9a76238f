"""The generator of synthetic workloads: every column drawn at once, each from a random stream of its own."""

from __future__ import annotations

import numpy as np

from servetwin.core.errors import InputError
from servetwin.core.random import stream
from servetwin.workload.arrivals import ClosedLoop
from servetwin.workload.base import RELEASED_LATER, Workload
from servetwin.workload.columns import Integers, nanoseconds
from servetwin.workload.conversations import converse
from servetwin.workload.fixed_set import go_round
from servetwin.workload.lengths import draw_pairs
from servetwin.workload.limits import MAX_TOKENS
from servetwin.workload.mix import draw_mix
from servetwin.workload.options import SyntheticOptions


class SyntheticSource:
    """A source of synthetic requests.

    Parameters
    ----------
    options
        What to draw.
    """

    def __init__(self, options: SyntheticOptions) -> None:
        self.options = options

    def build(self, seed: int) -> Workload:
        """Return the workload; equal seeds give equal workloads.

        Raises
        ------
        InputError
            If a file of lengths is bad, a conversation grows beyond what is allowed, or nothing arrives.
        """
        workload = self._with_lengths(self._items(seed), seed)
        if (longest := int(workload.prompt_tokens.max())) > MAX_TOKENS:
            message = f"a prompt grows to {longest} tokens; allowed: {MAX_TOKENS} (sessions.max_tokens ends sessions)"
            raise InputError(message, where="workload")
        return workload

    def _with_lengths(self, items: Workload, seed: int) -> Workload:
        """Return the requests that ``items`` become."""
        options = self.options
        if options.shared_prefix is not None:
            return go_round(items, options.shared_prefix, seed)
        if options.sessions is not None or options.system_prompts is not None:
            return converse(items, options, seed)
        items.prompt_tokens, items.output_tokens = draw_pairs(*options.lengths, len(items), seed)
        if options.encoder_tokens is not None:
            images = options.encoder_tokens.draw(len(items), stream(seed, "workload", "encoder_tokens"))
            has = stream(seed, "workload", "encoder_share").random(len(items)) < options.encoder_share
            items.encoder_tokens = np.where(has, images, 0)
            items.prompt_tokens = items.prompt_tokens + items.encoder_tokens
        return items

    def _items(self, seed: int) -> Workload:
        """Return what arrives (a request or a whole session per row), as yet without lengths."""
        arrivals = self.options.arrivals
        arrival_ns, delay_ns = self._arrivals(seed)
        n = len(arrival_ns)
        if n == 0:
            raise InputError("the workload is empty: the load stages gave no arrival", where="workload.arrivals")
        notices = []
        if self.options.asked is not None and n < self.options.asked:
            notices = [f"{self.options.asked} arrivals were asked for; the {arrivals.kind} give {n}"]
        none = np.zeros(0, dtype=np.int64)
        models, priority = self._models(n, seed), self._priorities(n, seed)
        concurrency = arrivals.concurrency if isinstance(arrivals, ClosedLoop) else None
        return Workload(
            arrival_ns, none, none, model=models, priority=priority, delay_ns=delay_ns, concurrency=concurrency,
            source="synthetic", notices=notices,
        )  # fmt: skip

    def _arrivals(self, seed: int) -> tuple[Integers, Integers | None]:
        """Return arrival times and, in a closed loop, think times."""
        arrivals, most = self.options.arrivals, self.options.items
        if not isinstance(arrivals, ClosedLoop):
            return nanoseconds(arrivals.draw(most, stream(seed, "workload", "arrivals"))), None
        think = nanoseconds(arrivals.think_s.draw(most, stream(seed, "workload", "loop_think")))
        think[: arrivals.concurrency] = 0  # the clients begin at once
        return np.full(most, RELEASED_LATER, dtype=np.int64), think

    def _models(self, n: int, seed: int) -> list[str | None] | None:
        if self.options.model is None:
            return None
        names, chosen = draw_mix(self.options.model, n, stream(seed, "workload", "model"))
        return [names[number] for number in chosen.tolist()]

    def _priorities(self, n: int, seed: int) -> Integers | None:
        if self.options.priority is None:
            return None
        values, chosen = draw_mix(self.options.priority, n, stream(seed, "workload", "priority"))
        return np.array(values, dtype=np.int64)[chosen]
