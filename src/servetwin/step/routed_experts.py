"""The routed experts of one pipeline stage: sending tokens to them, computing on the slowest rank, bringing them back.

With expert parallelism each expert lies whole on one rank of the group; without, each rank computes a slice of every
expert. Mirrors vLLM 0.19; `BACKENDS` says how tokens travel. Where tensor-parallel ranks divide the tokens
(`Parallelism.sequence_parallel_experts`), all ranks of the stage exchange them; else the data-parallel ones do, or
those that divide a prompt. Without either nothing is sent: tensor-parallel ranks have the same tokens, and add their
results up in the all-reduce after the layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError, unknown_name
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.operators import Elementwise, GroupedGemm, RankOperator
from servetwin.llm.parallel import Parallelism, stage_layers
from servetwin.llm.parts import MixtureOfExperts
from servetwin.step.exchange import Exchange
from servetwin.step.experts.base import ExpertRouting
from servetwin.step.kernels import Kernels, Numbers
from servetwin.step.operators import Work
from servetwin.step.plans.base import NOTHING_SHARED, SharedTime

BACKENDS = ("allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency")
"""How tokens travel, by vLLM's ``all2all_backend``.

``allgather_reducescatter``: every rank gets all tokens, and adds up its part of all outputs. Kernels' buffers have a
row for each token and expert, computed here or not (``fused_moe.py``): others' rows are zeros.
``deepep_high_throughput``: a token goes once to each rank that has one of its experts. ``deepep_low_latency``: once for
each of its experts.
"""

REMOVED_BACKENDS = ("naive", "pplx")
"""Earlier names; vLLM now takes ``allgather_reducescatter`` for them."""

ROUTING_BYTES_PER_EXPERT = 8
"""A token's weight (32 bits) and an expert's number (32 bits) travel with it."""

ROUTED = frozenset({"experts.gate_up_proj", "experts.act_fn", "experts.down_proj", "experts.sum"})
"""Operators that the routed experts run."""


class Load(NamedTuple):
    """What each rank gets of ``total`` tokens in each layer: arrays of shape ``(layers, ranks)``, see `ExpertLoad`.

    Layers with equal loads are one row, ``num_layers`` says how many they are.
    """

    total: int
    num_layers: Numbers
    tokens: Numbers
    pairs: Numbers
    experts: Numbers


class RoutedExperts:
    """The time of all of a stage's routed experts, by the tokens of each attention rank.

    Parameters
    ----------
    architecture, ranks
        The model, and which stage.
    operators
        The stage's operators; those of the experts are taken.
    kernels, exchange
        What kernels and collectives take.
    routing
        Which experts tokens take; None: evenly spread, as is to be expected.
    backend
        See `BACKENDS`.

    Raises
    ------
    InputError
        For an unknown backend, or one that needs expert parallelism without it.
    """

    def __init__(
        self,
        architecture: ModelArchitecture,
        ranks: Parallelism,
        operators: Sequence[RankOperator],
        kernels: Kernels,
        exchange: Exchange,
        routing: ExpertRouting | None,
        backend: str,
    ) -> None:
        self.notices: list[str] = []
        self.backend = self._known(backend, ranks)
        self._kernels, self._exchange, self._routing = kernels, exchange, routing
        self._parallel = ranks
        self._hidden = architecture.hidden_size
        self.first_layer, self.num_layers = _expert_layers(architecture, ranks)
        self._operators = _merged([op for op in operators if op.name in ROUTED])
        self._group = self._exchange_group()
        self.draws = routing is not None and "draw" in routing.needs
        self._known_times: dict[tuple[int, int], SharedTime] = {}

    def _known(self, backend: str, ranks: Parallelism) -> str:
        if backend in REMOVED_BACKENDS:
            self.notices.append(f"all2all_backend {backend!r} was removed from vLLM; allgather_reducescatter is taken")
            return BACKENDS[0]
        if backend not in BACKENDS:
            raise unknown_name("all2all_backend", backend, BACKENDS)
        if backend != BACKENDS[0] and ranks.expert != ranks.experts_group:
            raise InputError(
                f"all2all_backend {backend!r} sends tokens to whole experts: it needs expert parallelism over all "
                f"{ranks.experts_group} ranks, not {ranks.expert}; or use {BACKENDS[0]}"
            )
        return backend

    def _exchange_group(self) -> str | None:
        """Return which ranks send tokens to each other; None: tokens are where they are needed."""
        ranks = self._parallel
        if ranks.part == "ffn":
            return None
        if ranks.sequence_parallel_experts:
            return "experts"
        if ranks.data > 1:
            return "data"
        return "prefill_context" if ranks.prefill_context > 1 else None

    @property
    def is_closed_form(self) -> bool:
        """Whether the operators' own expectation says all: nothing travels, and no row is another rank's."""
        return self._routing is None and self._group is None and self._parallel.expert == 1

    def shared_parts_ns(self, tokens: Sequence[int], draw: int) -> SharedTime:
        """Return what the stage's layers with experts take together; see `RankModel.shared_ns`."""
        key = (sum(tokens), max(tokens))
        if self.draws:
            return self._time(*key, draw)
        time = self._known_times.get(key)
        if time is None:
            time = self._known_times[key] = self._time(*key, draw)
        return time

    def _time(self, total: int, most: int, draw: int) -> SharedTime:
        if not total:
            return NOTHING_SHARED
        load = self.load(total, draw)
        times = self._layer_times(load)
        experts_ns = float(load.num_layers @ np.sum(list(times.values()), axis=0).max(axis=1))
        if self._group is None:
            return SharedTime(0.0, experts_ns, 0.0)
        dispatch_ns, combine_ns = self._travel_ns(load, total, most)
        return SharedTime(dispatch_ns, experts_ns, combine_ns)

    def load(self, total: int, draw: int) -> Load:
        """Return what the ranks get when ``total`` tokens are routed, those layers together that are alike."""
        if self._routing is not None:
            loads = self._routing.loads(total, self.first_layer, self.num_layers, draw)
            return Load(
                total,
                np.array([float(layers) for layers, _ in loads]),
                np.array([load.tokens for _, load in loads], dtype=np.float64),
                np.array([load.pairs for _, load in loads], dtype=np.float64),
                np.array([load.experts for _, load in loads], dtype=np.float64),
            )
        op = self._grouped
        missed = comb(op.num_experts - op.local_experts, op.top_k) / comb(op.num_experts, op.top_k)
        return Load(
            total,
            np.array([float(self.num_layers)]),
            np.array([[total * (1.0 - missed)]]),
            np.array([[op.rows(total)]]),
            np.array([[op.active_experts(total)]]),
        )

    @property
    def _grouped(self) -> GroupedGemm:
        return next(op for op in self._operators if isinstance(op, GroupedGemm))

    def _layer_times(self, load: Load) -> dict[str, Numbers]:
        """Return each operator's time in one layer (the mean one, where layers differ), shape ``(layers, ranks)``."""
        slots = self._slots(load)
        times: dict[str, Numbers] = {}
        for op in self._operators:
            if isinstance(op, GroupedGemm):
                time = self._kernels.grouped_rows_ns(op, load.pairs, load.experts, slots - load.pairs)
            else:
                time = self._kernels.elementwise_ns(op, slots / self._grouped.top_k)
            times[op.name] = times.get(op.name, 0.0) + time * (op.count / self.num_layers)
        return times

    def _slots(self, load: Load) -> Numbers:
        """Return the rows of the kernels' buffers on each rank."""
        if self.backend != BACKENDS[0]:
            return load.pairs
        return np.maximum(load.pairs, load.total * float(self._grouped.top_k))

    def _travel_ns(self, load: Load, total: int, most: int) -> tuple[float, float]:
        """Return dispatch and combine of all layers."""
        assert self._group is not None
        sent, back = self.copy_bytes
        if self.backend == BACKENDS[0]:
            gather_ns = self._exchange.ns("all_gather", total * sent, self._group)
            scatter_ns = self._exchange.ns("reduce_scatter", total * back, self._group)
            return self.num_layers * gather_ns, self.num_layers * scatter_ns
        copies = self.copies(load)
        source = -(-most // self._sources_per_rank)
        leaving = copies.mean(axis=1) * (self._parallel.expert * source / total)
        busiest = np.maximum(leaving, copies.max(axis=1))
        times = [
            [self._exchange.ns("all_to_all", float(number) * size, self._group) for size in (sent, back)]
            for number in busiest
        ]
        dispatch_ns, combine_ns = load.num_layers @ np.array(times)
        return float(dispatch_ns), float(combine_ns)

    def copies(self, load: Load) -> Numbers:
        """Return the copies of tokens that each rank is sent where tokens go to single ranks, see `BACKENDS`."""
        return load.tokens if self.backend == "deepep_high_throughput" else load.pairs

    @property
    def copy_bytes(self) -> tuple[float, float]:
        """Bytes of one copy of a token on its way to an expert, and of what comes back."""
        sent = self._hidden * self._dispatched_bytes + self._grouped.top_k * ROUTING_BYTES_PER_EXPERT
        return sent, self._hidden * self._grouped.activation_bytes

    @property
    def _sources_per_rank(self) -> int:
        """Accelerators that send different tokens of one attention rank."""
        tensor = self._parallel.tensor if self._parallel.sequence_parallel_experts else 1
        return tensor * self._parallel.prefill_context

    @property
    def _dispatched_bytes(self) -> float:
        """Bytes of one element that is sent to an expert: quantised before it leaves, where the product wants that."""
        activations = self._grouped.weights.activations
        if activations is None:
            return self._grouped.activation_bytes
        return 0.5 if "fp4" in activations else 1.0

    def parts_ns(self, tokens: Sequence[int], draw: int) -> dict[str, float]:
        """Return what `shared_parts_ns` is made of, by operator, on the slowest rank of each layer."""
        if not sum(tokens):
            return {}
        shared = self._time(sum(tokens), max(tokens), draw)
        load = self.load(sum(tokens), draw)
        times = self._layer_times(load)
        slowest = _slowest(times)
        parts = {name: float(load.num_layers @ time[slowest]) for name, time in times.items()}
        return {"dispatch": shared.dispatch_ns, **parts, "combine": shared.combine_ns} if self._group else parts

    def work(self, total: int, draw: int) -> Mapping[str, Work]:
        """Return what the slowest rank of each layer computes and moves when ``total`` tokens are routed."""
        if not total:
            return {}
        load = self.load(total, draw)
        slowest = _slowest(self._layer_times(load))
        picked = (load.pairs[slowest], load.experts[slowest], self._slots(load)[slowest] / self._grouped.top_k)
        works: dict[str, Work] = {}
        for op in self._operators:
            flops, moved = _work(op, *picked)
            share = op.count / self.num_layers
            work = Work(share * float(load.num_layers @ flops), share * float(load.num_layers @ moved))
            works[op.name] = works.get(op.name, Work(0.0, 0.0)) + work
        return works


def _slowest(times: Mapping[str, Numbers]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return an index that picks the slowest rank of each layer."""
    ranks = np.sum(list(times.values()), axis=0).argmax(axis=1)
    return np.arange(len(ranks)), ranks.astype(np.int64)


def _work(op: GroupedGemm | Elementwise, pairs: Numbers, experts: Numbers, tokens: Numbers) -> tuple[Numbers, Numbers]:
    """Return FLOPs and bytes of one run of an operator."""
    if isinstance(op, GroupedGemm):
        moved = experts * op.expert_bytes + pairs * (op.n + op.k) * op.activation_bytes
        return 2.0 * pairs * op.n * op.k, moved
    moved = tokens * (op.elements_read + op.elements_written) * op.activation_bytes
    return np.zeros_like(pairs), moved


def _expert_layers(architecture: ModelArchitecture, ranks: Parallelism) -> tuple[int, int]:
    """Return the first of a stage's layers with experts, counted over such layers alone, and how many it has."""
    routed = [isinstance(layer.mlp, MixtureOfExperts) for layer in architecture.layer_sequence]
    stage = stage_layers(len(routed), ranks.pipeline, ranks.stage, ranks.partition)
    return sum(routed[: stage.start]), sum(routed[stage.start : stage.stop])


def _merged(operators: Sequence[RankOperator]) -> list[GroupedGemm | Elementwise]:
    """Return the operators, those together that differ in their number alone."""
    numbers: dict[GroupedGemm | Elementwise, int] = {}
    for op in operators:
        if isinstance(op, GroupedGemm | Elementwise):
            kind = replace(op, count=1)
            numbers[kind] = numbers.get(kind, 0) + op.count
    return [replace(op, count=count) for op, count in numbers.items()]
