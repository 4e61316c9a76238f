"""Every invariant finds what breaks it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from servetwin.cluster.invariants import check_instance
from servetwin.core.errors import InvariantError
from servetwin.engine.base import EngineSettings, RequestLog
from servetwin.engine.instance import Instance
from servetwin.engine.orderings import FirstComeFirstServed
from servetwin.engine.request import Request
from servetwin.engine.schedulers import VllmScheduler
from servetwin.step.fixed import FixedLatency


def decoding_instance() -> Instance:
    """Return an instance in the step after three prompts, in which all three decode."""
    settings = EngineSettings(
        num_blocks=100, max_model_len=100, block_size=4, max_num_seqs=3, enable_prefix_caching=False
    )
    requests = RequestLog.of_size(3)
    instance = Instance(settings, VllmScheduler(), FirstComeFirstServed(), FixedLatency(step_ns=10), requests)
    for row in range(3):
        instance.waiting.push(Request(row, (0, row), 5 + row, 9))
    end_ns = instance.plan(0)
    assert end_ns == 10
    instance.complete(10)
    instance.plan(10)
    return instance


def test_a_whole_instance_passes() -> None:
    """What the engine does breaks nothing."""
    instance = decoding_instance()
    assert instance.cohort.size == 3
    check_instance(instance, "chat-0")


def _too_many(instance: Instance) -> None:
    instance.running[3] = Request(3, (0, 3), 5, 9)


def _over_budget(instance: Instance) -> None:
    instance.budget = -2


def _more_cached_than_free(instance: Instance) -> None:
    instance.cache.cached_blocks = instance.cache.free_blocks + 1


def _member_lost(instance: Instance) -> None:
    del instance.running[1]


def _residue_lost(instance: Instance) -> None:
    instance.cohort.counts[0] += 1


def _tokens_lost(instance: Instance) -> None:
    instance.cohort.kv_tokens -= 1


def _block_lost(instance: Instance) -> None:
    instance.cache.free_blocks -= 1


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_too_many, "chat-0: 4 running, max_num_seqs is 3"),
        (_over_budget, "chat-0: the step is 2 tokens over max_num_batched_tokens"),
        (_more_cached_than_free, "chat-0: free and cached blocks do not add up"),
        (_member_lost, "chat-0: cohort of 3, but 2 decoding requests"),
        (_residue_lost, "chat-0: members by block residue do not add up to the cohort"),
        (_tokens_lost, "chat-0: KV sum is 17, members hold 18"),
        (_block_lost, "chat-0: 7 blocks used, requests hold 6"),
    ],
)
def test_what_is_broken_is_found(break_it: Callable[[Instance], None], message: str) -> None:
    """Each contradiction is an error that names the instance and the figures."""
    instance = decoding_instance()
    break_it(instance)
    with pytest.raises(InvariantError, match=message):
        check_instance(instance, "chat-0")
