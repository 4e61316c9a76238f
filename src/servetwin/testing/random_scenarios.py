"""Random small scenarios with tiny blocks and budgets, in which everything that can go wrong does so often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster import routers as _routers  # noqa: F401 (fills the registry)
from servetwin.cluster.base import Disaggregation, EncoderPool, FrontEnd, InstanceSpec, Router, routers
from servetwin.engine import orderings as _orderings  # noqa: F401
from servetwin.engine import schedulers as _schedulers  # noqa: F401
from servetwin.engine.base import EngineSettings, orderings, schedulers
from servetwin.step.base import StepModelBase, StepShape
from servetwin.workload.base import NO_PARENT, RELEASED_LATER, Workload


def drawn(draw: int, below: int) -> int:
    """Return a number from 0 to ``below`` - 1 that looks random."""
    return ((draw + 1) * 0x9E3779B97F4A7C15 >> 17) % below


class SpreadStepModel(StepModelBase):
    """A step model that depends on everything a shape has, so that any difference in shapes becomes one in time."""

    def __init__(self, scale_ns: int, *, extremes: bool, draws: bool = False, prompts: bool = False) -> None:
        super().__init__()
        self.scale_ns = scale_ns
        named = {"kv_extremes": extremes, "draw": draws, "decode_prompts": prompts}
        self.needs = frozenset(name for name, needed in named.items() if needed)

    def duration_ns(self, shape: StepShape) -> int:
        """Return an integer that mixes all fields."""
        total = 7 + 3 * shape.num_decodes + shape.decode_kv_tokens
        for new_tokens, context_tokens in shape.prefills:
            total += 5 * new_tokens + new_tokens * context_tokens // 4
        if "kv_extremes" in self.needs:
            total += 2 * shape.decode_kv_max + shape.decode_kv_min
        if "decode_prompts" in self.needs:
            total += sum(place * prompt for place, prompt in enumerate(shape.decode_prompts, 1)) // 4
        if "draw" in self.needs:
            total += drawn(shape.draw, 20)
        return total * self.scale_ns


class ListedTokens:
    """Contents given as token lists; a key is the number under which a prefix was first seen."""

    def __init__(self, tokens: Sequence[Sequence[int]]) -> None:
        self._tokens = [tuple(sequence) for sequence in tokens]
        self._numbers: dict[tuple[int, ...], int] = {}

    def block_keys(self, request: int, block_size: int) -> Sequence[int]:
        """Return one number per full block."""
        tokens = self._tokens[request]
        ends = range(block_size, len(tokens) + 1, block_size)
        return [self._numbers.setdefault(tokens[:end], len(self._numbers)) for end in ends]

    def distinct_behind(self, tokens: NDArray[np.int64]) -> bool:
        """Return whether no two requests are equal up to and beyond the first ``tokens`` of either, shape ``(n,)``."""
        begins = [sequence[: count + 1] for sequence, count in zip(self._tokens, tokens.tolist(), strict=True)]
        return not any(
            sequence[: len(begin)] == begin
            for row, begin in enumerate(begins)
            for other, sequence in enumerate(self._tokens)
            if other != row
        )


@dataclass(frozen=True)
class RandomScenario:
    """What one random scenario runs; ``make_...`` gives a fresh router, or way from prefill to decode, per run."""

    workload: Workload
    instances: list[InstanceSpec]
    make_router: Callable[[], Router]
    staleness_ns: int
    front_end: FrontEnd | None
    cut_ns: list[int]
    make_disaggregation: Callable[[], Disaggregation | None] = lambda: None
    encoders: EncoderPool | None = None


def random_scenario(seed: int) -> RandomScenario:
    """Return the random scenario number ``seed``."""
    rng = np.random.default_rng(seed)
    workload = random_workload(rng)
    longest = int((workload.prompt_tokens + workload.output_tokens).max())
    instances = _instances(rng, longest)
    names = sorted(name for name in routers.names())
    name = names[int(rng.integers(len(names)))]
    staleness_ns = int(rng.choice([0, 0, 50, 3000]))
    front_end = FrontEnd(int(rng.integers(50)), int(rng.integers(50))) if rng.random() < 0.2 else None
    cuts = sorted(rng.integers(0, 20_000, size=int(rng.integers(0, 12))).tolist())
    return RandomScenario(workload, instances, lambda: routers.get(name)(seed=seed), staleness_ns, front_end, cuts)


def random_workload(rng: np.random.Generator) -> Workload:
    """Return a workload of a few requests."""
    crowd = rng.random() < 0.2  # many short requests at once: more decodes than a small budget has tokens
    n = int(rng.integers(20, 40) if crowd else rng.integers(1, 28))
    prompt_tokens = rng.integers(1, int(4 if crowd else rng.choice([6, 20, 40])) + 1, size=n)
    output_tokens = rng.integers(1, int(6 if crowd else rng.choice([2, 10, 30])) + 1, size=n)
    span = int(1 if crowd else rng.choice([1, 200, 4000, 40_000]))
    arrival_ns = np.sort(rng.integers(0, span, size=n))
    workload = Workload(arrival_ns, prompt_tokens, output_tokens)
    workload.priority = rng.integers(0, 3, size=n) if rng.random() < 0.5 else None
    workload.session_id = [f"s{int(k)}" if k else None for k in rng.integers(0, 4, size=n)]
    if rng.random() < 0.15:
        workload.model = [("a", "b", None, "c")[int(k)] for k in rng.choice(4, size=n, p=[0.4, 0.3, 0.2, 0.1])]
    _link(rng, workload)
    if rng.random() < 0.5:
        workload.contents = random_contents(rng, workload)
    return workload


def _link(rng: np.random.Generator, workload: Workload) -> None:
    """Make some workloads sessions, closed loops, or both."""
    n = len(workload)
    kind = rng.choice(["open", "open", "sessions", "closed"])
    if kind == "open" or n < 2:
        return
    workload.delay_ns = rng.choice([0, 0, 1, 30, 500], size=n).astype(np.int64)
    if kind == "closed":
        workload.concurrency = int(rng.integers(1, 6))
        workload.arrival_ns = np.full(n, RELEASED_LATER, dtype=np.int64)
    turns = rng.random() < 0.5 if kind == "closed" else True
    if not turns:
        return
    heads = int(rng.integers(1, n))
    parent = np.full(n, NO_PARENT, dtype=np.int64)
    last = list(range(heads))
    for row in range(heads, n):
        session = int(rng.integers(heads))
        parent[row] = last[session]
        last[session] = row
    workload.parent = parent
    workload.arrival_ns = workload.arrival_ns.copy()
    workload.arrival_ns[heads:] = RELEASED_LATER


def random_tokens(rng: np.random.Generator, lengths: NDArray[np.int64]) -> list[list[int]]:
    """Return token lists that often begin alike."""
    stems = [rng.integers(0, 2, size=80).tolist() for _ in range(int(rng.integers(1, 4)))]
    sequences = []
    for length in lengths.tolist():
        stem = stems[int(rng.integers(len(stems)))]
        shared = int(rng.integers(0, length + 1)) if rng.random() < 0.8 else length
        sequences.append(stem[:shared] + rng.integers(0, 2, size=length - shared).tolist())
    return sequences


def random_contents(rng: np.random.Generator, workload: Workload) -> ListedTokens:
    """Return contents that often begin alike; half of the time no two answers do."""
    tokens = random_tokens(rng, workload.prompt_tokens + workload.output_tokens)
    if rng.random() < 0.5:
        for row, prompt in enumerate(workload.prompt_tokens.tolist()):
            tokens[row][prompt:] = [2 + row] * (len(tokens[row]) - prompt)
    return ListedTokens(tokens)


def _instances(rng: np.random.Generator, longest: int) -> list[InstanceSpec]:
    count = int(rng.choice([1, 1, 2, 3, 5]))
    alike = rng.random() < 0.6
    specs: list[InstanceSpec] = []
    for i in range(count):
        like = specs[0] if specs and alike else random_instance(rng, i, longest)
        specs.append(
            InstanceSpec(
                f"pool-{i}", "pool", "none", like.model, like.settings, like.scheduler, like.ordering, like.step_model
            )
        )
    return specs


def random_instance(rng: np.random.Generator, number: int, longest: int) -> InstanceSpec:
    """Return an instance that has room for a request of ``longest`` tokens, or almost."""
    kinds = schedulers.names()
    scheduler = schedulers.get(str(rng.choice(["vllm", "vllm", *kinds])))()
    ordering = orderings.get(str(rng.choice(["fcfs", *orderings.names()])))()
    block_size = int(rng.choice([1, 2, 3, 4, 8, 16]))
    budget = int(rng.choice([1, 3, 8, 16, 64, 200]))
    chunked = bool(rng.random() < 0.7) and type(scheduler).__name__ == "VllmScheduler"
    if not chunked and rng.random() < 0.8:
        budget = max(budget, longest)
    fits = longest if rng.random() < 0.9 else int(rng.integers(1, longest + 1))
    needed = -(-longest // block_size)
    roomy = rng.random() < 0.3
    settings = EngineSettings(
        num_blocks=400 if roomy else int(rng.integers(max(1, needed - 1), 3 * needed + 2)),
        max_model_len=fits if chunked else min(fits, budget),
        max_num_seqs=int(rng.choice([1, 2, 4, 8, 32, 32])),
        max_num_batched_tokens=budget,
        block_size=block_size,
        enable_chunked_prefill=chunked,
        long_prefill_token_threshold=int(rng.choice([0, 0, 1, 3, 8])),
        scheduler_reserve_full_isl=bool(rng.random() < 0.6),
        enable_prefix_caching=bool(rng.random() < 0.6),
        idle_poll_ns=int(rng.choice([0, 0, 0, 100])),
        async_scheduling=bool(rng.random() < 0.3),
    )
    scale = int(rng.choice([1, 1, 10]))
    extremes = bool(rng.random() < 0.3)
    step_model = SpreadStepModel(scale, extremes=extremes, prompts=extremes)
    model = str(rng.choice(["a", "b"])) if rng.random() < 0.1 else None
    return InstanceSpec(f"pool-{number}", "pool", "none", model, settings, scheduler, ordering, step_model)
