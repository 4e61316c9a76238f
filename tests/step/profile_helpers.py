"""Small profiles with noise and holes, for tests of the step model that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import comb

import numpy as np
from numpy.typing import NDArray

from servetwin.step.base import StepShape
from servetwin.step.experts.base import ExpertLoad, LayerLoads
from servetwin.step.profile import ExpertSizes
from servetwin.step.profile.layers import DENSE, MLP, OPTIONAL, PER_SEQUENCE
from servetwin.step.profile.tables import (
    AdditiveAttention,
    Bins,
    Curve,
    ExpertBlock,
    Grid,
    JointAttention,
    Profile,
    SerialRead,
    SingleExpert,
    SkewTable,
)

CHUNKS, CONTEXTS, DECODES, KV = (0, 16, 64, 128, 256), (0, 64, 512), (0, 1, 4, 16), (0, 16, 128, 1024)


def noisy(values: NDArray[np.float64], seed: int, noise: float = 0.1) -> NDArray[np.float64]:
    """Return the values, each off by up to ``noise`` of itself, in whole nanoseconds."""
    wobble = np.random.default_rng(seed).uniform(1 - noise, 1 + noise, len(values))
    return np.maximum(1.0, np.rint(values * wobble))


def curve(start: float, slope: float, seed: int) -> Curve:
    """Return a noisy line over counts."""
    counts = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256])
    return Curve(counts, noisy(start + slope * counts, seed))


def joint(seed: int) -> JointAttention:
    """Return a joint table without its dearest corner, as memory limits leave it."""
    rows = [
        (chunk, context, decodes, kv)
        for chunk, context, decodes, kv in product(CHUNKS, CONTEXTS, DECODES, KV)
        if chunk + decodes > 0
        and (context == 0 or chunk > 0)
        and (kv == 0) == (decodes == 0)
        and not (chunk > 0 and decodes == 16 and kv == 1024)
    ]
    chunk, context, decodes, kv = (np.array(column) for column in zip(*rows, strict=True))
    work = 6_000 + 5 * chunk * (context + chunk / 2) + decodes * (100 + 3 * kv) * np.where(chunk > 0, 1.6, 1.0)
    return JointAttention(chunk, context, decodes, kv, noisy(work, seed))


def additive(seed: int) -> AdditiveAttention:
    """Return two tables whose ends are clamped, as fits leave them."""
    contexts, chunks = np.arange(0, 513, 64), np.arange(32, 513, 32)
    decodes, kv = np.arange(1, 33), np.arange(0, 513, 64)
    prefill = 6_000 + 5 * np.minimum(chunks, 384)[None, :] * (contexts[:, None] + np.minimum(chunks, 384)[None, :] / 2)
    decode = 5_000 + np.minimum(decodes, 24)[:, None] * (100 + 3 * kv[None, :])
    wobble = np.random.default_rng(seed)
    decode = np.rint(decode * wobble.uniform(0.9, 1.1, decode.shape))
    decode[24:] = decode[23]
    return AdditiveAttention(Grid(contexts, chunks, prefill.astype(float)), Grid(decodes, kv, decode), context_tile=64)


def skew_table() -> SkewTable:
    """Return a fitted table with a few entries."""
    return SkewTable(
        n=Bins((0, 4, 1e6), ("few", "many")),
        skew_rate=Bins((-0.01, 0.4, 1.01), ("low", "high")),
        kv_max=Bins((0, 256, 512, 1e9), ("short", "middle", "long")),
        kv_prefill=Bins((-1, 0, 1e9), ("none", "some")),
        alpha={(0, "many", "low", "short", "none"): 0.3, (0, "many", "high", "middle", "none"): 0.7},
        default=0.05,
    )


def profile(seed: int = 0, attention: str = "joint", padding: str = "none", ranks: int = 1) -> Profile:
    """Return a small profile of a dense model."""
    layers = [name for name in DENSE if name not in OPTIONAL]
    return Profile(
        hardware="toy",
        model="toy/model",
        tensor_parallel_size=ranks,
        dense={name: curve(2_000, 150, seed + i) for i, name in enumerate(layers)},
        per_sequence={name: curve(50_000, 900, seed + 50 + i) for i, name in enumerate(PER_SEQUENCE)},
        attention=joint(seed) if attention == "joint" else additive(seed),
        skew=skew_table(),
        serial=SerialRead(from_decodes=8, ns_per_token=60.0),
        token_padding=padding,  # type: ignore[arg-type]
    )


EXPERTS = ExpertSizes(num_experts=16, top_k=2, hidden_size=64, intermediate_size=32)


def expert_block(seed: int = 0) -> ExpertBlock:
    """Return a noisy table of whole blocks, without the cells in which experts would have no token."""
    rows = [(t, a) for t in (1, 2, 4, 8, 16, 64, 256) for a in (2, 4, 8, 16) if a <= 2 * t]
    tokens, activated = (np.array(column) for column in zip(*rows, strict=True))
    work = 20_000 + np.maximum(3_000 * activated, 100 * tokens) + 20 * tokens
    return ExpertBlock(tokens, activated, noisy(work, seed, 0.03))


def single_expert(seed: int = 0) -> SingleExpert:
    """Return a noisy table of one expert."""
    return SingleExpert(curve(5_000, 10, seed), curve(9_000, 60, seed + 1), curve(3_000, 4, seed + 2))


def moe_profile(seed: int = 0, kind: str = "block", padding: str = "none", ranks: int = 1) -> Profile:
    """Return a small profile of a mixture of experts."""
    dense = profile(seed, padding=padding, ranks=ranks)
    return Profile(
        dense.hardware,
        dense.model,
        ranks,
        {name: table for name, table in dense.dense.items() if name not in MLP},
        dense.per_sequence,
        dense.attention,
        experts=expert_block(seed) if kind == "block" else single_expert(seed),
        serial=dense.serial,
        token_padding=dense.token_padding,
    )


class Even:
    """Tokens spread evenly over experts: expected numbers, alike on all ranks. With ``drawn`` each draw differs."""

    def __init__(self, ranks: int = 1, sizes: ExpertSizes = EXPERTS, drawn: bool = False) -> None:
        self.needs = frozenset({"draw"} if drawn else ())
        self._ranks, self._sizes, self._drawn = ranks, sizes, drawn

    def loads(self, tokens: int, first_layer: int, num_layers: int, draw: int) -> Sequence[LayerLoads]:
        """See `ExpertRouting`."""
        experts, top_k, ranks = self._sizes.num_experts, self._sizes.top_k, self._ranks
        local = experts // ranks
        missed = comb(experts - local, top_k) / comb(experts, top_k)
        pairs = tokens * top_k / ranks * (1 + 0.1 * (draw % 7) if self._drawn else 1)
        active = local * (1 - (1 - top_k / experts) ** tokens)
        each = np.ones(ranks)
        return [LayerLoads(num_layers, ExpertLoad(each * tokens * (1 - missed), each * pairs, each * active))]


class LssBalanced:
    """LLMServingSim's BALANCED routing (FORMATS, section 1.3)."""

    needs: frozenset[str] = frozenset()

    def __init__(self, ranks: int, sizes: ExpertSizes) -> None:
        self._ranks, self._sizes = ranks, sizes

    def loads(self, tokens: int, first_layer: int, num_layers: int, draw: int) -> Sequence[LayerLoads]:
        """See `ExpertRouting`."""
        ranks, sizes, each = self._ranks, self._sizes, np.ones(self._ranks)
        pairs = tokens * sizes.top_k / ranks
        hit = 1 - ((ranks - 1) / ranks) ** sizes.top_k
        experts = min(round(pairs), max(1, sizes.num_experts // ranks))
        return [LayerLoads(num_layers, ExpertLoad(each * round(tokens * hit), each * pairs, each * experts))]


def decodes(contexts: list[int], *prefills: tuple[int, int]) -> StepShape:
    """Return the shape of a step of decodes with these contexts beside these chunks."""
    return StepShape(len(contexts), sum(contexts), prefills, max(contexts, default=0), min(contexts, default=0))
