"""Routing in the stepwise engine: who may serve a request, and what a router sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from servetwin.cluster.base import ClusterView, RequestView, Role, Router
from servetwin.testing.stepwise_instance import StepwiseInstance
from servetwin.testing.stepwise_kv_cache import StepwiseRequest
from servetwin.workload.base import DistinctContents, Workload


class StepwiseRouting:
    """What all routers of a simulation share: their view of the instances, which may be old."""

    def __init__(self, workload: Workload, instances: Sequence[StepwiseInstance], staleness_ns: int) -> None:
        self.workload = workload
        self.instances = instances
        self.staleness_ns = staleness_ns
        self.view: ClusterView | None = None
        self.view_ns = 0
        self.contents = workload.contents or DistinctContents(workload.prompt_tokens + workload.output_tokens)

    def candidates(self, request: StepwiseRequest, roles: Sequence[Role]) -> list[int]:
        """Return the numbers of the instances of some roles that serve a request's model."""
        return [
            instance.number
            for instance in self.instances
            if instance.spec.role in roles
            and (None in (instance.spec.model, request.model) or instance.spec.model == request.model)
        ]

    def choose(self, router: Router, request: StepwiseRequest, candidates: list[int], now_ns: int) -> int:
        """Return a router's choice."""
        keys: Sequence[int] = ()
        if "block_keys" in router.reads and self.workload.contents is not None:
            block_size = self.instances[0].settings.block_size
            keys = self.workload.contents.block_keys(request.row, block_size)[: request.prompt_tokens // block_size]
        seen = RequestView(
            request.row, now_ns, request.prompt_tokens, request.session_id, request.model, request.priority, keys
        )
        seen.reusable_tokens = lambda number: self._reusable_tokens(request, number, now_ns)
        if self.view is None or now_ns - self.view_ns >= self.staleness_ns:
            self.view, self.view_ns = self._look(), now_ns
        return router.choose(seen, self.view, np.array(candidates, dtype=np.int64))

    def _reusable_tokens(self, request: StepwiseRequest, number: int, now_ns: int) -> int:
        """Return how many tokens of a prompt an instance has, on its device and in its tiers."""
        instance = self.instances[number]
        if not instance.settings.enable_prefix_caching:
            return 0
        keys = self.contents.block_keys(request.row, instance.settings.block_size)
        asked = StepwiseRequest(request.row, request.prompt_tokens, 1, keys=keys)
        on_device = len(instance.cache.lookup(asked, request.prompt_tokens)) * instance.settings.block_size
        return on_device + (instance.tiers.found(asked, on_device, now_ns) if instance.tiers is not None else 0)

    def _look(self) -> ClusterView:
        """Return what can be seen now; a request whose KV or embeddings are on their way waits."""

        def column(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            return np.array(values, dtype=np.int64)

        waiting = [len(x.waiting) + x.num_loading + x.num_coming for x in self.instances]
        return ClusterView(
            waiting=column(waiting),
            running=column([len(x.running) for x in self.instances]),
            outstanding=column([n + len(x.running) for n, x in zip(waiting, self.instances, strict=True)]),
            kv_used_blocks=column([x.cache.used_blocks for x in self.instances]),
            kv_blocks=column([x.cache.num_blocks for x in self.instances]),
            max_num_seqs=column([x.settings.max_num_seqs for x in self.instances]),
        )
