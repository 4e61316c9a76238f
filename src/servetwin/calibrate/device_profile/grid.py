"""Which points a profile of a device consists of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from servetwin.calibrate.device_profile.points import (
    DIRECTIONS,
    FORMATS,
    LAUNCH_MODES,
    OPERATORS,
    POWER_STATES,
    WORDS,
    Point,
    point_work,
)
from servetwin.core.errors import InputError, unknown_name


@dataclass(frozen=True, slots=True)
class Grid:
    """The sizes that are measured; all combinations of an operator's lists.

    Attributes
    ----------
    weights
        Shapes ``(n, k)`` of weight matrices.
    heads
        ``(query heads, KV heads, head size)``.
    experts
        ``(experts, n, k)``.
    max_flops
        Larger points are left out, so that a slow device ends within a quarter of an hour.
    """

    rows: Sequence[int]
    weights: Sequence[tuple[int, int]]
    heads: Sequence[tuple[int, int, int]]
    chunks: Sequence[int]
    prefill_contexts: Sequence[int]
    batches: Sequence[int]
    decode_contexts: Sequence[int]
    experts: Sequence[tuple[int, int, int]]
    expert_rows: Sequence[int]
    tokens: Sequence[int]
    norm_widths: Sequence[int]
    activation_widths: Sequence[int]
    copy_bytes: Sequence[int]
    launches: Sequence[int]
    max_flops: float


FULL = Grid(
    rows=(1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192),
    weights=(
        *((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)),  # Llama-3.1-8B, one device
        *((10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672)),  # Llama-3.1-70B, one device
        *((1280, 8192), (8192, 1024), (7168, 8192), (8192, 3584)),  # the same on eight
    ),
    heads=((32, 8, 128), (64, 8, 128), (8, 1, 128)),
    chunks=(16, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
    prefill_contexts=(0, 512, 2048, 8192, 32768),
    batches=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    decode_contexts=(64, 256, 1024, 2048, 4096, 8192, 16384, 32768),
    experts=((8, 28672, 4096), (8, 4096, 14336), (128, 1536, 2048), (128, 2048, 768)),  # Mixtral-8x7B, Qwen3-30B-A3B
    expert_rows=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    tokens=(1, 8, 64, 256, 1024, 4096, 8192),
    norm_widths=(4096, 8192),
    activation_widths=(3584, 14336, 28672),
    copy_bytes=tuple(4**power for power in range(6, 16)),
    launches=(1, 10, 100, 1000),
    max_flops=2e13,
)
QUICK = Grid(
    rows=(1, 16, 256, 2048),
    weights=((4096, 4096), (28672, 4096)),
    heads=((32, 8, 128),),
    chunks=(128, 2048),
    prefill_contexts=(0, 2048),
    batches=(1, 16, 128),
    decode_contexts=(256, 2048),
    experts=((8, 4096, 14336),),
    expert_rows=(1, 64),
    tokens=(1, 2048),
    norm_widths=(4096,),
    activation_widths=(14336,),
    copy_bytes=(4**6, 4**10, 4**13),
    launches=(1, 100),
    max_flops=1e13,
)
CPU_MAX_FLOPS = 2e10
"""A core does some 50 GFLOP/s; a point should take well under a second."""


def device_points(
    device_type: str,
    *,
    formats: Sequence[str] | None = None,
    operators: Sequence[str] | None = None,
    quick: bool = False,
) -> list[Point]:
    """Return the points of a device's profile, without repeats, in the order in which they are measured.

    Parameters
    ----------
    device_type
        ``cuda`` or ``cpu``.
    formats
        Number formats; default: those that such devices usually compute in.
    operators
        Names of `OPERATORS`; default: all.
    quick
        A small grid of some 40 points, to see that all works.

    Raises
    ------
    InputError
        For an unknown format or operator (with the nearest match), or one that such a device cannot run.
    """
    for kind, names, known in (("format", formats, FORMATS), ("operator", operators, tuple(OPERATORS))):
        for name in names or ():
            if name not in known:
                raise unknown_name(kind, name, known, where="servetwin profile device")
    cpu = device_type == "cpu"
    grid = QUICK if quick else FULL
    limit = CPU_MAX_FLOPS if cpu else grid.max_flops
    wanted = tuple(dict.fromkeys(formats or (("fp32", "bf16") if cpu else ("bf16", "fp8"))))
    points = [
        point
        for operator in dict.fromkeys(operators or OPERATORS)
        for point in _of_operator(operator, grid, wanted)
        if point_work(point).flops <= limit and not (cpu and _needs_accelerator(point))
    ]
    measured = {str(point.keys[0]) for point in points}
    for name in formats or ():
        if name not in measured:
            raise InputError(f"format {name} is not measured with these operators on a {device_type}; leave it out")
    if not points:
        raise InputError(f"none of these operators can be measured on a {device_type}")
    return points


def _of_operator(operator: str, grid: Grid, formats: Sequence[str]) -> Iterator[Point]:
    plain = [name for name in formats if name in ("fp32", "bf16", "fp16")]
    combinations: dict[str, Iterator[tuple[str | int, ...]]] = {
        "gemm": ((f, m, *nk) for f, nk, m in product(formats, grid.weights, grid.rows)),
        "grouped_gemm": ((f, e, m, n, k) for f, (e, n, k), m in product(plain, grid.experts, grid.expert_rows)),
        "attention_prefill": (
            (f, *heads, chunk, context)
            for f, heads, chunk, context in product(plain, grid.heads, grid.chunks, grid.prefill_contexts)
        ),
        "attention_decode": (
            (f, *heads, batch, context)
            for f, heads, batch, context in product(plain, grid.heads, grid.batches, grid.decode_contexts)
        ),
        "rms_norm": product(plain, grid.tokens, grid.norm_widths),
        "silu_and_mul": product(plain, grid.tokens, grid.activation_widths),
        "copy": product(DIRECTIONS, grid.copy_bytes),
        "launch": product(LAUNCH_MODES, grid.launches),
        "power": ((state,) for state in POWER_STATES),
    }
    return (Point(operator, keys) for keys in combinations[operator])


def _needs_accelerator(point: Point) -> bool:
    """Return whether a point has no meaning on a CPU."""
    if point.operator == "copy":
        return point.word("direction") != "device_to_device"
    if point.operator == "launch":
        return point.word("mode") == "graph_replay"
    return point.operator == "power" or (point.operator == "gemm" and point.word("format") in ("tf32", "fp8"))


def check_words(point: Point) -> None:
    """Raise for a key whose word is none of those that exist."""
    for name, value in zip(OPERATORS[point.operator], point.keys, strict=True):
        if name in WORDS and value not in WORDS[name]:
            raise unknown_name(name, value, WORDS[name])
