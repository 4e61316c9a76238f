"""Running requests that lose their place: paused for a step, or thrown out to wait and be computed again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servetwin.core.errors import StuckError
from servetwin.engine.records import log_spans
from servetwin.engine.request import Request

if TYPE_CHECKING:
    from servetwin.engine.instance import Instance

FRUITLESS_PREEMPTIONS = 10_000
"""More preemptions than this without a token between them mean that there will never be one."""


def leave_cohort(instance: Instance, request: Request) -> None:
    """Take a decoding request out before its end, with its tokens written down."""
    log_spans(instance, [request])
    request.generated_tokens += instance.cohort.round - request.start_round
    request.computed_tokens = context_tokens = instance.cohort.leave(request)
    request.num_blocks = -(-context_tokens // instance.block_size)


def preempt(instance: Instance, request: Request, scheduled_tokens: int) -> None:
    """Throw a running request's KV away and let it wait again (vLLM's recompute).

    Parameters
    ----------
    scheduled_tokens
        Tokens that it was given in this very step; their blocks go, too.

    Raises
    ------
    StuckError
        If requests only take blocks from each other and nobody gets a token any more.
    """
    _count_preemption(instance)
    if not request.prefilling:
        leave_cohort(instance, request)
        request.known_tokens = request.prompt_tokens + request.generated_tokens
        request.prefilling = True
        held = -(-(request.computed_tokens + scheduled_tokens) // instance.block_size)
        request.num_blocks = max(request.num_blocks, held)
    else:
        instance.prefilling.remove(request)
    if instance.tiers is not None and instance.tiers.swaps:
        instance.tiers.swap_out(instance, request)
    instance.cache.release(request, request.computed_tokens + scheduled_tokens)
    request.lost_tokens = request.computed_tokens
    request.computed_tokens = 0
    del instance.running[request.row]
    instance.requests.preemptions[request.row] += 1
    instance.log.preempted_ns.append(instance.start_ns)
    instance.log.preempted_request.append(request.row)
    instance.waiting.push(request)


def _count_preemption(instance: Instance) -> None:
    instance.preempted = True
    instance.preemptions_since_token += 1
    if instance.preemptions_since_token > FRUITLESS_PREEMPTIONS:
        raise StuckError(
            f"{FRUITLESS_PREEMPTIONS} preemptions without one token in between: {len(instance.running)} running "
            f"and {len(instance.waiting)} waiting requests take {instance.cache.num_blocks} KV blocks from each other. "
            "Turn scheduler_reserve_full_isl on, or give it more KV blocks or a smaller max_num_seqs"
        )
