"""The step model of a measured profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from servetwin.core.errors import InputError
from servetwin.core.units import NS_PER_US
from servetwin.network.base import Collectives
from servetwin.step.base import StepModelBase, StepShape
from servetwin.step.host import HostOverhead
from servetwin.step.profile.attention import Prefills, measured_attention
from servetwin.step.profile.layers import BLOCK_LAYERS
from servetwin.step.profile.limits import Limits
from servetwin.step.profile.lss_attention import lss_attention
from servetwin.step.profile.lss_lookup import LssCurve
from servetwin.step.profile.monotone_curve import MonotoneCurve
from servetwin.step.profile.options import DEFAULT_OPTIONS, HostIo, ModelSizes, ProfileOptions
from servetwin.step.profile.padding import padding
from servetwin.step.profile.skew import LongestRead, LssSkew, NoSkew, SkewRule
from servetwin.step.profile.tables import AdditiveAttention, Profile

_STEPS_AT_ONCE = 512


class ProfileStepModel(StepModelBase):
    """A step as the sum of its layers' measured times, of collectives and of what the host adds.

    A chunk of one token is a decode: attention kernels treat both alike (and so does LLMServingSim). Logits are
    computed for every sequence of the step, unfinished prefills included, as in vLLM V1.

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
        What the host adds to each step; None: what the profile says.
    host_io
        Input ids and sampled ids that pass through host memory; None: hidden, no time.

    Raises
    ------
    InputError
        If the degree is above 1 and there is no cost of an all-reduce.
    """

    def __init__(
        self,
        profile: Profile,
        sizes: ModelSizes,
        *,
        options: ProfileOptions = DEFAULT_OPTIONS,
        collectives: Collectives | None = None,
        host: HostOverhead | None = None,
        host_io: HostIo | None = None,
    ) -> None:
        super().__init__()
        if profile.tensor_parallel_size > 1 and collectives is None:
            raise InputError(f"tensor_parallel_size {profile.tensor_parallel_size} needs a link between the ranks")
        self._sizes = sizes
        self._layers = sizes.num_layers
        self._ranks = profile.tensor_parallel_size
        own_merge = options.interpolation == "lss" and isinstance(profile.attention, AdditiveAttention)
        self._merge = options.merge_prefills and not own_merge
        self._collectives = collectives
        self._host = profile.host if host is None else host
        self._host_io = host_io
        self._set_padding(profile, options)
        self._set_tables(profile, options)
        self.needs = self._attention.needs
        self.notices += [f"layer {name} takes no time: {why}" for name, why in profile.not_measured.items()]
        self.notices += profile.notices
        self._by_tokens: dict[int, float] = {}
        self._by_sequences: dict[int, float] = {}
        self._decode_fixed: dict[int, float] = {}

    def _set_padding(self, profile: Profile, options: ProfileOptions) -> None:
        kind = profile.token_padding if options.token_padding == "auto" else options.token_padding
        self._pad_tokens, self._pad_sequences = padding(kind)
        eager_us = options.eager_us_per_layer if kind == "cuda_graph" else 0.0
        self._eager_ns = eager_us * NS_PER_US * self._layers

    def _set_tables(self, profile: Profile, options: ProfileOptions) -> None:
        lss = options.interpolation == "lss"
        curve: type[LssCurve] | type[MonotoneCurve] = LssCurve if lss else MonotoneCurve
        self._curves = {name: curve(table) for name, table in profile.dense.items()}
        self._sequence_curves = {name: curve(table) for name, table in profile.per_sequence.items()}
        times = (lss_attention if lss else measured_attention)(profile.attention)
        self._attention: SkewRule = NoSkew(times)
        if options.skew == "lss" and profile.skew:
            self._attention = LssSkew(times, profile.skew)
        elif options.skew == "longest" and (profile.serial or times.serial_ns_per_token):
            self._attention = LongestRead(times, profile.serial, self._pad_tokens)
        self._limits = Limits(profile, times, self.notices)

    def duration_ns(self, shape: StepShape) -> int:
        """See `StepModel`."""
        n, tokens = shape.num_decodes, 0
        for new, _ in shape.prefills:
            if new == 1:
                return self.duration_ns(_normalised(shape))
            tokens += new
        if not tokens:
            return _whole(self._decode_fixed_ns(n) + self._layers * self._decode_attention(shape))
        fixed = self._mixed_fixed_ns(n + tokens, n + len(shape.prefills))
        return _whole(fixed + self._layers * self._mixed_attention(shape))

    def decode_run_ns(self, shape: StepShape, max_steps: int, limit_ns: int) -> Sequence[int]:
        """See `StepModel`."""
        durations: list[int] = []
        total = 0
        while len(durations) < max_steps:
            likely = (limit_ns - total) // durations[-1] + 2 if durations else 8
            part = self._part_of_run(
                shape, len(durations), max(1, min(max_steps - len(durations), _STEPS_AT_ONCE, likely))
            )
            added = sum(part)
            if total + added >= limit_ns:
                return durations + _until(part, limit_ns - total)
            durations += part
            total += added
        return durations

    def _part_of_run(self, shape: StepShape, start: int, count: int) -> list[int]:
        """Return the durations of steps ``start`` to ``start + count - 1`` of a run."""
        n = shape.num_decodes
        kv_tokens = shape.decode_kv_tokens + n * start
        self._limits.check_decodes(n, kv_tokens + n * count)
        times = self._attention.decode_run_ns(
            n, kv_tokens, shape.decode_kv_max + start, shape.decode_kv_min + start, count
        )
        fixed, layers = self._decode_fixed_ns(n), self._layers
        return [int(fixed + layers * time + 0.5) or 1 for time in times]

    def _decode_attention(self, shape: StepShape) -> float:
        n, kv_tokens = shape.num_decodes, shape.decode_kv_tokens
        self._limits.check_decodes(n, kv_tokens)
        return self._attention.decode_ns(n, kv_tokens, shape.decode_kv_max, shape.decode_kv_min)

    def _mixed_attention(self, shape: StepShape) -> float:
        prefills: Prefills = shape.prefills
        if self._merge and len(prefills) > 1:
            prefills = ((sum(new for new, _ in prefills), sum(context for _, context in prefills)),)
        self._limits.check_prefills(prefills)
        n, kv_tokens = shape.num_decodes, shape.decode_kv_tokens
        self._limits.check_decodes(n, kv_tokens)
        return self._attention.mixed_ns(prefills, n, kv_tokens, shape.decode_kv_max, shape.decode_kv_min)

    def _decode_fixed_ns(self, decodes: int) -> float:
        """Return what does not depend on contexts in a step of decodes alone."""
        found = self._decode_fixed.get(decodes)
        if found is None:
            self._limits.check_counts(decodes, decodes)
            found = self._decode_fixed[decodes] = sum(self._fixed_parts(decodes, decodes, mixed=False).values())
        return found

    def _mixed_fixed_ns(self, tokens: int, sequences: int) -> float:
        """Return what does not depend on contexts in a step with chunks."""
        by_tokens = self._by_tokens.get(tokens)
        if by_tokens is None:
            self._limits.check_counts(tokens, 0)
            by_tokens = self._by_tokens[tokens] = sum(self._token_parts(tokens).values())
        by_sequences = self._by_sequences.get(sequences)
        if by_sequences is None:
            self._limits.check_counts(0, sequences)
            parts = self._sequence_parts(sequences, mixed=True)
            by_sequences = self._by_sequences[sequences] = sum(parts.values())
        return by_tokens + by_sequences

    def _fixed_parts(self, tokens: int, sequences: int, *, mixed: bool) -> dict[str, float]:
        return self._token_parts(tokens) | self._sequence_parts(sequences, mixed=mixed)

    def _token_parts(self, tokens: int) -> dict[str, float]:
        """Return what depends on the step's tokens only."""
        padded, layers = max(1, self._pad_tokens(tokens)), self._layers
        repeats = {name: BLOCK_LAYERS[name] * layers if name in BLOCK_LAYERS else 1 for name in self._curves}
        parts = {name: curve(padded) * repeats[name] for name, curve in self._curves.items()}
        if self._collectives and self._ranks > 1:
            size = padded * self._sizes.hidden_size * self._sizes.bytes_per_element
            parts["all_reduce"] = 2 * layers * self._collectives.all_reduce_ns(size, self._ranks)
        if self._host_io:
            ids = 2 * tokens * self._sizes.bytes_per_element
            parts["host_io"] = self._host_io.access_ns(ids) + self._host_io.access_ns(4 * tokens)
        return parts

    def _sequence_parts(self, sequences: int, *, mixed: bool) -> dict[str, float]:
        """Return what depends on the step's sequences only."""
        rows = max(1, self._pad_sequences(sequences))
        parts = {name: curve(rows) for name, curve in self._sequence_curves.items()}
        parts["host"] = self._host.of_requests_ns(sequences) + (self._eager_ns if mixed else 0.0)
        return parts

    def breakdown_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the time by layer (all blocks together), ``attention``, ``all_reduce``, ``host_io`` and ``host``."""
        shape = _normalised(shape)
        mixed = bool(shape.prefills)
        parts = self._fixed_parts(shape.num_tokens, shape.num_sequences, mixed=mixed)
        attention = self._mixed_attention(shape) if mixed else self._decode_attention(shape)
        return parts | {"attention": self._layers * attention}


def _normalised(shape: StepShape) -> StepShape:
    """Return the shape with chunks of one token among the decodes."""
    if all(new > 1 for new, _ in shape.prefills):
        return shape
    contexts = [context for new, context in shape.prefills if new == 1]
    extremes = [*contexts, shape.decode_kv_max, shape.decode_kv_min] if shape.num_decodes else contexts
    return StepShape(
        shape.num_decodes + len(contexts),
        shape.decode_kv_tokens + sum(contexts),
        tuple(chunk for chunk in shape.prefills if chunk[0] > 1),
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
