"""The conformance suite of workload sources: subclass it, say how to make a source, and pytest runs it."""

from __future__ import annotations

import numpy as np

from servetwin.workload.base import NO_PARENT, RELEASED_LATER, Workload, WorkloadSource

_BLOCK_SIZES = (1, 3, 16)
_ROWS = 50


class WorkloadSourceConformance:
    """Every workload source passes these tests.

    A subclass, named ``Test...``, overrides `make_source`.
    """

    def make_source(self) -> WorkloadSource:
        """Return the source to be tested; it should make some dozens of requests."""
        raise NotImplementedError

    def test_columns_agree(self) -> None:
        """All columns have one row per request, and lengths are at least 1."""
        workload = self.make_source().build(1)
        assert len(workload) > 0
        columns = (
            "prompt_tokens",
            "output_tokens",
            "request_id",
            "session_id",
            "model",
            "priority",
            "parent",
            "delay_ns",
        )
        for name in columns:
            column = getattr(workload, name)
            assert column is None or len(column) == len(workload), name
        for lengths in (workload.prompt_tokens, workload.output_tokens):
            assert lengths.dtype == np.int64
            assert lengths.min() >= 1

    def test_known_arrivals_come_first_and_ascend(self) -> None:
        """Known arrivals ascend from the first row on; the others are released by a parent or by a closed loop."""
        workload = self.make_source().build(1)
        known = workload.arrival_ns != RELEASED_LATER
        count = int(known.sum())
        assert known[:count].all()
        assert (workload.arrival_ns[:count] >= 0).all()
        assert (np.diff(workload.arrival_ns[:count]) >= 0).all()
        if workload.concurrency is None:
            assert (_parents(workload)[~known] != NO_PARENT).all()

    def test_chains_end_at_a_root(self) -> None:
        """Going from parent to parent leads, from every request, to one without a parent."""
        workload = self.make_source().build(1)
        parents = _parents(workload)
        rows = np.arange(len(workload))
        for _ in range(len(workload)):
            rows = np.where(parents[rows] == NO_PARENT, rows, parents[rows])
        assert (parents[rows] == NO_PARENT).all()

    def test_equal_seeds_give_equal_workloads(self) -> None:
        """Two builds with one seed are equal in every column and in every block key."""
        first, second = self.make_source().build(7), self.make_source().build(7)
        for name in ("arrival_ns", "prompt_tokens", "output_tokens", "parent", "delay_ns", "priority"):
            assert np.array_equal(getattr(first, name), getattr(second, name)), name
        assert (first.request_id, first.session_id, first.model) == (second.request_id, second.session_id, second.model)
        if first.contents is not None and second.contents is not None:
            for row in range(min(len(first), _ROWS)):
                assert list(first.contents.block_keys(row, 16)) == list(second.contents.block_keys(row, 16))

    def test_every_full_block_has_a_key(self) -> None:
        """There are as many keys as full blocks, all different within a request, from 0 to below 2**62."""
        workload = self.make_source().build(1)
        if workload.contents is None:
            return
        lengths = workload.prompt_tokens + workload.output_tokens
        for row in range(min(len(workload), _ROWS)):
            for block_size in _BLOCK_SIZES:
                keys = list(workload.contents.block_keys(row, block_size))
                assert len(keys) == lengths[row] // block_size
                assert len(set(keys)) == len(keys)
                assert all(0 <= key < 2**62 for key in keys)


def _parents(workload: Workload) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    none = np.full(len(workload), NO_PARENT, dtype=np.int64)
    return none if workload.parent is None else workload.parent
