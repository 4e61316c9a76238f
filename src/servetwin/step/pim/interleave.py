"""Sub-batch interleaving: two half batches take turns on the accelerator and in the memory."""

from __future__ import annotations

from typing import NamedTuple

from servetwin.step.base import StepShape


class Half(NamedTuple):
    """One half batch's time over all layers, in nanoseconds: on the accelerator, and in the memory."""

    accelerator_ns: float
    memory_ns: float


def makespan_ns(first: Half, second: Half, num_layers: int) -> float:
    """Return when both halves are through all layers.

    Accelerator and memory each do one thing at a time, halves in turns. Attention stands in the middle of a layer: half
    of a layer's work on the accelerator comes before the first attention, half after the last.
    """
    a, b = first.accelerator_ns / num_layers, second.accelerator_ns / num_layers
    p, q = first.memory_ns / num_layers, second.memory_ns / num_layers
    if 2 * p <= b and 2 * q <= a:
        return first.accelerator_ns + second.accelerator_ns
    free = memory = 0.0  # when accelerator and memory have nothing more to do
    ready_a = ready_b = 0.0  # when the halves' last attention has ended
    for layer in range(num_layers + 1):
        share = 1.0 if 0 < layer < num_layers else 0.5
        last = layer == num_layers
        free = max(free, ready_a) + share * a
        ready_a = free if last else max(free, memory) + p
        memory = memory if last else ready_a
        free = max(free, ready_b) + share * b
        ready_b = free if last else max(free, memory) + q
        memory = memory if last else ready_b
    return free


def halves(shape: StepShape) -> tuple[StepShape, StepShape] | None:
    """Return two half batches of about as many tokens, or None for a single request.

    Prompt chunks, longest first, go to the half with fewer tokens, and decodes fill up the other: they are divided by
    their number, at equal mean context, because a step holds sums of them only.
    """
    if shape.num_sequences < 2:
        return None
    sides: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    tokens = [0, 0]
    for chunk in sorted(shape.prefills, reverse=True):
        side = 0 if tokens[0] <= tokens[1] else 1
        sides[side].append(chunk)
        tokens[side] += chunk[0]
    n = shape.num_decodes
    second = min(n, max(0, (n + tokens[0] - tokens[1]) // 2))
    kv_second = shape.decode_kv_tokens * second // n if n else 0
    return (
        _part(shape, n - second, shape.decode_kv_tokens - kv_second, sides[0], shape.decode_prompts[: n - second]),
        _part(shape, second, kv_second, sides[1], shape.decode_prompts[n - second :]),
    )


def lss_halves(shape: StepShape) -> tuple[StepShape, StepShape] | None:
    """Return LLMServingSim's halves: requests by their tokens in this step, longest first, to the lesser half.

    None for a single request. Needs the decodes' prompts.
    """
    if shape.num_sequences < 2:
        return None
    tokens = [0, 0]
    chunks: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    prompts: tuple[list[int], list[int]] = ([], [])
    for chunk in sorted(shape.prefills, key=lambda chunk: -chunk[0]):
        side = 0 if tokens[0] <= tokens[1] else 1
        chunks[side].append(chunk)
        tokens[side] += chunk[0]
    for prompt in shape.decode_prompts:
        side = 0 if tokens[0] <= tokens[1] else 1
        prompts[side].append(prompt)
        tokens[side] += 1
    n = shape.num_decodes
    parts = [len(prompts[0]), len(prompts[1])]
    kv_second = shape.decode_kv_tokens * parts[1] // n if n else 0
    return (
        _part(shape, parts[0], shape.decode_kv_tokens - kv_second, chunks[0], tuple(prompts[0])),
        _part(shape, parts[1], kv_second, chunks[1], tuple(prompts[1])),
    )


def _part(
    shape: StepShape, num: int, kv_tokens: int, chunks: list[tuple[int, int]], prompts: tuple[int, ...]
) -> StepShape:
    longest, shortest = (shape.decode_kv_max, shape.decode_kv_min) if num else (0, 0)
    return StepShape(num, kv_tokens, tuple(chunks), longest, shortest, shape.draw, prompts)
