"""Asking routers: who may serve a request, what the router sees, and whether its answer is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import ClusterView, Disaggregation, InstanceSpec, RequestView, Router
from servetwin.cluster.plugins import wrong_choice
from servetwin.engine.instance import Instance
from servetwin.workload.base import Workload


def _nothing(row: int, now_ns: int, number: int) -> int:
    return 0


class Routing:
    """The routers of one cluster and the view that they share.

    Parameters
    ----------
    staleness_ns
        How old the view may be.
    disaggregation
        Its router chooses who decodes.

    Attributes
    ----------
    watches_steps
        Whether a router reads what changes with every step; `look_at` must be called after each then.
    watches_ends
        Whether one reads only how many requests are outstanding; `came` and `left` must be called then.
    """

    def __init__(
        self,
        workload: Workload,
        specs: Sequence[InstanceSpec],
        router: Router,
        staleness_ns: int,
        disaggregation: Disaggregation | None,
    ) -> None:
        self._workload = workload
        self._specs = specs
        self._router = router
        self._staleness_ns = staleness_ns
        self._apart = disaggregation
        self.reads = router.reads | (disaggregation.decode_router.reads if disaggregation else frozenset())
        several = len(specs) > 1
        self.watches_steps = several and bool(self.reads & {"waiting", "running", "kv_used_blocks"})
        self.watches_ends = several and "outstanding" in self.reads and not self.watches_steps
        self._live = self._empty_view()
        self._on_the_way = [0] * len(specs)
        """Requests whose embeddings are on their way to each instance: they wait there."""
        self._stale: ClusterView | None = None
        self._stale_ns = 0
        self.reusable_tokens: Callable[[int, int, int], int] = _nothing
        """How many tokens of a row's prompt an instance has at a time; the loop, which has the instances, says how."""
        self._candidates: dict[tuple[str | None, bool], NDArray[np.int64]] = {}

    # Choosing -------------------------------------------------------------------------------------------------

    def choose(self, row: int, now_ns: int, prompt_tokens: int, *, decodes: bool = False) -> int | None:
        """Return the number of the instance that a request goes to; None if nobody serves its model.

        Parameters
        ----------
        decodes
            Whether its prompt is computed already, elsewhere.

        Raises
        ------
        InvariantError
            If the router chose an instance that it was not offered.
        """
        w, apart = self._workload, self._apart
        model = w.model[row] if w.model is not None else None
        decodes = decodes or (apart is not None and prompt_tokens <= apart.local_prompt_tokens)
        router = apart.decode_router if apart and decodes else self._router
        candidates = self._candidates.get((model, decodes))
        if candidates is None:
            candidates = self._candidates[model, decodes] = self._candidates_for(model, decodes)
        if not len(candidates):
            return None
        keys: Sequence[int] = ()
        if "block_keys" in router.reads and w.contents is not None:
            block_size = self._specs[0].settings.block_size
            keys = w.contents.block_keys(row, block_size)[: prompt_tokens // block_size]
        session_id = w.session_id[row] if w.session_id is not None else None
        priority = int(w.priority[row]) if w.priority is not None else 0
        request = RequestView(row, now_ns, prompt_tokens, session_id, model, priority, keys)
        if "reusable_tokens" in router.reads:
            request.reusable_tokens = partial(self.reusable_tokens, row, now_ns)
        choice = router.choose(request, self._seen(now_ns), candidates)
        if choice.__class__ is not int or not self._may_serve(choice, candidates):
            raise wrong_choice(router, choice, candidates.tolist())
        return choice

    def nobody(self, row: int) -> str:
        """Return why a row is rejected for which there is no instance."""
        model = self._workload.model[row] if self._workload.model else None
        does = "serves" if self._apart is None else "prefills"
        return f"no pool {does} the model {model!r}"

    def _candidates_for(self, model: str | None, decodes: bool) -> NDArray[np.int64]:
        """Return the instances that serve a model in one of the two roles."""
        other = "prefill" if decodes else "decode"
        serving = [
            i
            for i, spec in enumerate(self._specs)
            if (None in (model, spec.model) or spec.model == model) and spec.role != other
        ]
        return np.array(serving, dtype=np.int64)

    def _may_serve(self, number: int, candidates: NDArray[np.int64]) -> bool:
        if len(candidates) == len(self._specs):
            return 0 <= number < len(self._specs)
        return bool((candidates == number).any())

    # The view -------------------------------------------------------------------------------------------------

    def look_at(self, instance: Instance) -> None:
        """Bring an instance's part of the view up to date."""
        number, view = instance.number, self._live
        waiting = len(instance.waiting) + len(instance.loading) + self._on_the_way[number]
        running = len(instance.running)
        view.waiting[number] = waiting
        view.running[number] = running
        view.outstanding[number] = waiting + running
        view.kv_used_blocks[number] = instance.cache.num_blocks - instance.cache.free_blocks

    def came(self, number: int) -> None:
        """Count a request that came to an instance."""
        self._live.outstanding[number] += 1

    def set_out(self, instance: Instance) -> None:
        """Count a request whose embeddings set out for an instance: it has come, but cannot be served yet."""
        self._on_the_way[instance.number] += 1
        if self.watches_ends:
            self.came(instance.number)
        if self.watches_steps:
            self.look_at(instance)

    def arrived(self, number: int) -> None:
        """Take note that such a request joins the instance's queue."""
        self._on_the_way[number] -= 1

    def left(self, number: int) -> None:
        """Count a request that left it."""
        self._live.outstanding[number] -= 1

    def _seen(self, now_ns: int) -> ClusterView:
        """Return what a router sees: the present, or its last look at it."""
        if not self._staleness_ns:
            return self._live
        if self._stale is None or now_ns - self._stale_ns >= self._staleness_ns:
            live = self._live
            self._stale = ClusterView(
                live.waiting.copy(),
                live.running.copy(),
                live.outstanding.copy(),
                live.kv_used_blocks.copy(),
                live.kv_blocks,
                live.max_num_seqs,
            )
            self._stale_ns = now_ns
        return self._stale

    def _empty_view(self) -> ClusterView:
        def zeros() -> NDArray[np.int64]:
            return np.zeros(len(self._specs), dtype=np.int64)

        return ClusterView(
            zeros(),
            zeros(),
            zeros(),
            zeros(),
            np.array([spec.settings.num_blocks for spec in self._specs], dtype=np.int64),
            np.array([spec.settings.max_num_seqs for spec in self._specs], dtype=np.int64),
        )
