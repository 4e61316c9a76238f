"""Prefill context parallelism: how ranks divide the tokens of a prompt's chunk."""

from __future__ import annotations

from servetwin.step.base import StepShape


def part_of_rank(shape: StepShape, ranks: int) -> StepShape:
    """Return what one of ``ranks`` ranks computes of a step: two slices of each chunk, and all decodes.

    A chunk is cut into ``2 ranks`` slices; rank r takes the r-th from the front and the r-th from the back, so that all
    ranks have equally many pairs of a query and an earlier token (zig-zag). The first rank's slices are returned. Each
    attends to keys and values that the ranks have gathered. Decodes are computed by each rank. Mirrors vLLM's
    ``PCPManager``.
    """
    if ranks == 1 or not shape.prefills:
        return shape
    slices = []
    for new, context in shape.prefills:
        size = -(-new // (2 * ranks))
        slices += [(size, context), (size, context + (2 * ranks - 1) * size)]
    return StepShape(
        shape.num_decodes,
        shape.decode_kv_tokens,
        tuple(slices),
        shape.decode_kv_max,
        shape.decode_kv_min,
        shape.draw,
    )
