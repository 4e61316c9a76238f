"""The step model of a measured profile."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from servetwin.core.units import NS_PER_S
from servetwin.network.base import Collectives
from servetwin.step.base import StepModelBase, StepShape
from servetwin.step.host import NO_HOST_OVERHEAD, HostOverhead
from servetwin.step.profile.attention import AttentionTimes, Prefills, measured_attention
from servetwin.step.profile.layers import BLOCK_LAYERS
from servetwin.step.profile.lss_attention import lss_attention
from servetwin.step.profile.lss_lookup import LssCurve
from servetwin.step.profile.monotone_curve import MonotoneCurve
from servetwin.step.profile.padding import padding
from servetwin.step.profile.skew import LssSkew
from servetwin.step.profile.tables import Curve, Profile

FAR = 4
"""Beyond a table's end by more than this factor a result gets a notice."""

CHUNK_OF_STEPS = 512


@dataclass(frozen=True, slots=True)
class HostIo:
    """Token ids that a step loads from host memory, and sampled ones that it stores there (LLMServingSim).

    Each access takes ``latency_ns`` + bytes / bandwidth, in whole nanoseconds.
    """

    bandwidth_bytes_per_s: float
    latency_ns: float = 0.0

    def access_ns(self, num_bytes: int) -> int:
        """Return the time of one access."""
        return math.floor(self.latency_ns + num_bytes / self.bandwidth_bytes_per_s * NS_PER_S)


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What the profile's tables do not say of the model: how often a block is repeated, and what a token's row takes."""

    num_layers: int
    hidden_size: int
    bytes_per_element: int = 2


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """How the tables are read; the defaults are ours, `LSS_OPTIONS` are LLMServingSim's.

    Attributes
    ----------
    interpolation
        ``"default"``: monotone, linear in tokens read, physical beyond the grid. ``"lss"``: as LLMServingSim.
    skew
        ``"none"``: a batch of unequal contexts takes as long as one of equal contexts with the same sum. ``"lss"``:
        corrected by the profile's fitted table, where it has one.
    merge_prefills
        Whether several chunks are looked up as one (sum of tokens, sum of contexts).
    token_padding
        ``"auto"``: as the profile says; ``"none"``, ``"power_of_two"`` (vLLM on TPU), ``"cuda_graph"``.
    """

    interpolation: Literal["default", "lss"] = "default"
    skew: Literal["none", "lss"] = "none"
    merge_prefills: bool = False
    token_padding: Literal["auto", "none", "power_of_two", "cuda_graph"] = "auto"


LSS_OPTIONS = ProfileOptions(interpolation="lss", skew="lss", merge_prefills=True, token_padding="none")


class ProfileStepModel(StepModelBase):
    """A step as the sum of its layers' measured times, of collectives and of what the host adds.

    A chunk of one token is a decode: attention kernels treat both alike (and so does LLMServingSim).

    Parameters
    ----------
    profile
        The tables of one tensor-parallel degree.
    sizes
        Sizes of the model.
    options
        How the tables are read.
    collectives
        The cost of the two all-reduces per block (after ``o_proj`` and ``down_proj``); needed at a degree above 1.
    host
        What the host adds to each step.
    host_io
        Input ids and sampled ids that pass through host memory; None: hidden, no time.
    """

    def __init__(
        self,
        profile: Profile,
        sizes: ModelSizes,
        *,
        options: ProfileOptions = ProfileOptions(),
        collectives: Collectives | None = None,
        host: HostOverhead = NO_HOST_OVERHEAD,
        host_io: HostIo | None = None,
    ) -> None:
        super().__init__()
        if profile.tensor_parallel_size > 1 and collectives is None:
            raise ValueError("tensor parallelism needs the cost of an all-reduce: give collectives")
        lss = options.interpolation == "lss"
        curve: type[LssCurve] | type[MonotoneCurve] = LssCurve if lss else MonotoneCurve
        self._curves: dict[str, Callable[[int], float]] = {name: curve(c) for name, c in profile.dense.items()}
        self._sequence_curves = {name: curve(c) for name, c in profile.per_sequence.items()}
        self._attention = (lss_attention if lss else measured_attention)(profile.attention)
        self._skew = LssSkew(self._attention, profile.skew) if options.skew == "lss" and profile.skew else None
        self.needs = frozenset({"kv_extremes"}) if self._skew else frozenset()
        kind = profile.token_padding if options.token_padding == "auto" else options.token_padding
        self._pad_tokens, self._pad_sequences = padding(kind)
        self._merge = options.merge_prefills
        self._sizes = sizes
        self._ranks = profile.tensor_parallel_size
        self._collectives = collectives
        self._host = host
        self._host_io = host_io
        self._fixed: dict[tuple[int, int], float] = {}
        self._limits = _Limits(profile, self._attention, self.notices)
        self.notices += [f"layer {name} takes no time: {why}" for name, why in profile.not_measured.items()]
        self.notices += profile.notices

    def duration_ns(self, shape: StepShape) -> int:
        """See `StepModel`."""
        prefills = shape.prefills
        if not prefills:
            return self._decode_only(shape)
        shape = _normalised(shape)
        if not shape.prefills:
            return self._decode_only(shape)
        tokens = shape.num_decodes + sum(new for new, _ in shape.prefills)
        fixed = self._fixed_ns(tokens, shape.num_decodes + len(shape.prefills))
        return _whole(fixed + self._sizes.num_layers * self._mixed_attention(shape))

    def _decode_only(self, shape: StepShape) -> int:
        n = shape.num_decodes
        self._limits.check_decodes(n, shape.decode_kv_tokens)
        if self._skew:
            attention = self._skew.decode_ns(n, shape.decode_kv_tokens, shape.decode_kv_max, shape.decode_kv_min)
        else:
            attention = self._attention.decode_ns(n, shape.decode_kv_tokens)
        return _whole(self._fixed_ns(n, n) + self._sizes.num_layers * attention)

    def decode_run_ns(self, shape: StepShape, max_steps: int, limit_ns: int) -> Sequence[int]:
        """See `StepModel`."""
        n = shape.num_decodes
        durations: list[int] = []
        total = 0
        while len(durations) < max_steps:
            likely = (limit_ns - total) // durations[-1] + 2 if durations else 8
            count = max(1, min(max_steps - len(durations), CHUNK_OF_STEPS, likely))
            part = self._part_of_run(shape, n, len(durations), count)
            added = sum(part)
            if total + added >= limit_ns:
                return durations + _until(part, limit_ns - total)
            durations += part
            total += added
        return durations

    def _part_of_run(self, shape: StepShape, n: int, start: int, count: int) -> list[int]:
        kv_tokens = shape.decode_kv_tokens + n * start
        self._limits.check_decodes(n, kv_tokens + n * count)
        if self._skew:
            kv_max, kv_min = shape.decode_kv_max + start, shape.decode_kv_min + start
            times = self._skew.decode_run_ns(n, kv_tokens, kv_max, kv_min, count)
        else:
            times = self._attention.decode_run_ns(n, kv_tokens, count)
        fixed, layers = self._fixed_ns(n, n), self._sizes.num_layers
        return [int(fixed + layers * time + 0.5) for time in times]

    def _mixed_attention(self, shape: StepShape) -> float:
        prefills: Prefills = shape.prefills
        if self._merge and len(prefills) > 1:
            prefills = ((sum(new for new, _ in prefills), sum(context for _, context in prefills)),)
        self._limits.check_prefills(prefills)
        self._limits.check_decodes(shape.num_decodes, shape.decode_kv_tokens)
        if self._skew:
            return self._skew.mixed_ns(
                prefills, shape.num_decodes, shape.decode_kv_tokens, shape.decode_kv_max, shape.decode_kv_min
            )
        return self._attention.mixed_ns(prefills, shape.num_decodes, shape.decode_kv_tokens)

    def _fixed_ns(self, tokens: int, sequences: int) -> float:
        """Return everything that depends on counts alone."""
        found = self._fixed.get((tokens, sequences))
        if found is None:
            self._limits.check_counts(tokens, sequences)
            found = self._fixed[tokens, sequences] = sum(self._fixed_parts(tokens, sequences).values())
        return found

    def _fixed_parts(self, tokens: int, sequences: int) -> dict[str, float]:
        padded, rows = max(1, self._pad_tokens(tokens)), max(1, self._pad_sequences(sequences))
        layers = self._sizes.num_layers
        parts = {
            name: curve(padded) * layers * BLOCK_LAYERS[name] if name in BLOCK_LAYERS else curve(padded)
            for name, curve in self._curves.items()
        }
        parts |= {name: curve(rows) for name, curve in self._sequence_curves.items()}
        if self._collectives and self._ranks > 1:
            size = padded * self._sizes.hidden_size * self._sizes.bytes_per_element
            parts["all_reduce"] = 2 * layers * self._collectives.all_reduce_ns(size, self._ranks)
        if self._host_io:
            ids = 2 * tokens * self._sizes.bytes_per_element
            parts["host_io"] = self._host_io.access_ns(ids) + self._host_io.access_ns(4 * tokens)
        parts["host"] = self._host.of_requests_ns(sequences)
        return parts

    def breakdown_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the step's time by layer (all blocks together), ``attention``, ``all_reduce``, ``host_io``, ``host``."""
        shape = _normalised(shape)
        parts = self._fixed_parts(shape.num_tokens, shape.num_sequences)
        if shape.prefills:
            attention = self._mixed_attention(shape)
        elif self._skew:
            attention = self._skew.decode_ns(
                shape.num_decodes, shape.decode_kv_tokens, shape.decode_kv_max, shape.decode_kv_min
            )
        else:
            attention = self._attention.decode_ns(shape.num_decodes, shape.decode_kv_tokens)
        parts["attention"] = self._sizes.num_layers * attention
        return parts


def _normalised(shape: StepShape) -> StepShape:
    """Return the shape with chunks of one token among the decodes."""
    if all(new > 1 for new, _ in shape.prefills):
        return shape
    contexts = [context for new, context in shape.prefills if new == 1]
    extremes = [*contexts, shape.decode_kv_max, shape.decode_kv_min] if shape.num_decodes else contexts
    return StepShape(
        shape.num_decodes + len(contexts),
        shape.decode_kv_tokens + sum(contexts),
        tuple((new, context) for new, context in shape.prefills if new > 1),
        max(extremes),
        min(extremes),
    )


def _whole(time_ns: float) -> int:
    return max(1, int(time_ns + 0.5))


def _until(durations: list[int], limit_ns: int) -> list[int]:
    """Return the durations up to the one at which their sum reaches the limit."""
    total = 0
    for i, duration in enumerate(durations):
        total += duration
        if total >= limit_ns:
            return durations[: i + 1]
    return durations


class _Limits:
    """Says, once per axis, that a run went far beyond what was measured."""

    def __init__(self, profile: Profile, attention: AttentionTimes, notices: list[str]) -> None:
        self._notices = notices
        self._said: set[str] = set()
        self._ends = {
            "tokens in a step": _last(profile.dense),
            "sequences in a step": min(_last(profile.per_sequence), attention.ends["decodes"]),
            "tokens in a prefill chunk": attention.ends["chunk"],
            "context tokens of a prefill chunk": attention.ends["chunk context"],
            "mean context of decodes": attention.ends["decode context"],
        }
        self._far_chunk = FAR * attention.ends["chunk"]
        self._far_context = FAR * attention.ends["chunk context"]
        self.far_mean = FAR * attention.ends["decode context"]

    def check_counts(self, tokens: int, sequences: int) -> None:
        self._check("tokens in a step", tokens)
        self._check("sequences in a step", sequences)

    def check_prefills(self, prefills: Prefills) -> None:
        for new, context in prefills:
            if new > self._far_chunk:
                self._check("tokens in a prefill chunk", new)
            if context > self._far_context:
                self._check("context tokens of a prefill chunk", context)

    def check_decodes(self, decodes: int, kv_tokens: int) -> None:
        if kv_tokens > self.far_mean * decodes:
            self._check("mean context of decodes", kv_tokens / decodes)

    def _check(self, axis: str, value: float) -> None:
        end = self._ends[axis]
        if value > FAR * end and axis not in self._said:
            self._said.add(axis)
            self._notices.append(
                f"{axis}: up to {value:g}, more than {FAR} times the {end} that the profile covers; extrapolated"
            )


def _last(curves: Mapping[str, Curve]) -> int:
    return min((int(curve.counts[-1]) for curve in curves.values()), default=0)
