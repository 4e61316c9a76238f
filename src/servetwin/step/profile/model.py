"""The step model of a measured profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from servetwin.core.errors import InputError
from servetwin.llm.parallel import Parallelism, stage_layers
from servetwin.network.base import Collectives
from servetwin.step.base import StepModelBase, StepShape, grown_by
from servetwin.step.experts.base import ExpertRouting
from servetwin.step.host import HostOverhead
from servetwin.step.plans.base import NOTHING_SHARED, SharedTime
from servetwin.step.profile.attention import Prefills, measured_attention
from servetwin.step.profile.expert_times import measured_experts
from servetwin.step.profile.fixed_parts import FixedParts
from servetwin.step.profile.gaps import BeyondStart
from servetwin.step.profile.limits import Limits
from servetwin.step.profile.lss_attention import lss_attention
from servetwin.step.profile.lss_experts import lss_experts
from servetwin.step.profile.options import DEFAULT_OPTIONS, HostIo, ModelSizes, ProfileOptions
from servetwin.step.profile.order import operator_ends
from servetwin.step.profile.routed import RoutedExperts
from servetwin.step.profile.sharing import ExpertSharing, LssExperts, VllmExperts
from servetwin.step.profile.skew import LongestRead, LssSkew, NoSkew, SkewRule
from servetwin.step.profile.tables import AdditiveAttention, Profile

_STEPS_AT_ONCE = 512


class ProfileStepModel(StepModelBase):
    """A step as the sum of its layers' measured times, of collectives and of what the host adds.

    As a step model it stands for a whole replica, as a rank model (`RankModel`) for one pipeline stage of one
    data-parallel rank (and as an `OverlapModel`). A chunk of one token is a decode: attention kernels treat both alike
    (and so does LLMServingSim). Logits are computed for every sequence of the step, unfinished prefills included, as in
    vLLM V1.

    Parameters
    ----------
    profile
        The tables of one tensor-parallel degree.
    sizes
        Sizes of the model.
    options
        How the tables are read.
    collectives
        What ranks exchange: all-reduces after ``o_proj`` and the MLP or experts, the experts' dispatch and combine, and
        activations between stages. Needed by more than one accelerator.
    host
        What the host adds to each step, on the first stage; None: what the profile says.
    host_io
        Input ids and sampled ids that pass through host memory; None: hidden, no time.
    ranks
        The rank's place: pipeline stage, data- and expert-parallel sizes; None: a replica without these.
    experts
        Which experts a step takes; needed by a mixture of experts.
    overlap_slowdown
        See `OverlapModel`.

    Raises
    ------
    InputError
        If collectives or the routing are needed and absent, ``ranks`` has another tensor-parallel degree than the
        profile, or profile and sizes disagree on experts.
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
        ranks: Parallelism | None = None,
        experts: ExpertRouting | None = None,
        overlap_slowdown: float = 1.0,
    ) -> None:
        super().__init__()
        ranks = ranks or Parallelism(profile.tensor_parallel_size)
        _check(profile, sizes, ranks, collectives, experts)
        layers = stage_layers(sizes.num_layers, ranks.pipeline, ranks.stage, ranks.partition)
        self._layers = len(layers)
        if collectives is not None and profile.gaps_included and options.interpolation == "default":
            collectives = BeyondStart(collectives)
        self._ranks, self._collectives = ranks, collectives
        self._row_bytes = sizes.hidden_size * sizes.bytes_per_element
        self._lss_parallelism = options.parallelism == "lss"
        own_merge = options.interpolation == "lss" and isinstance(profile.attention, AdditiveAttention)
        self._merge = options.merge_prefills and not own_merge
        self._window = sizes.window if options.interpolation == "default" else None
        self._set_experts(profile, sizes, options, experts, layers)
        self._fixed = FixedParts(
            profile,
            sizes,
            options,
            self._layers,
            ranks,
            collectives,
            profile.host if host is None else host,
            host_io,
            self._router_ns,
        )
        self._set_attention(profile, sizes, options)
        self.graph_limit = self._fixed.graph_limit
        self.expert_layers = self._layers if self._experts else 0
        self.overlap_slowdown = overlap_slowdown
        self.needs = self._attention.needs | ({"draw"} if self._experts and self._experts.drawn else set())
        self.notices += [f"layer {name} takes no time: {why}" for name, why in profile.not_measured.items()]
        self.notices += profile.notices
        self._decode_fixed: dict[int, float] = {}
        self._by_tokens: dict[int, float] = {}
        self._by_sequences: dict[int, float] = {}

    def _set_attention(self, profile: Profile, sizes: ModelSizes, options: ProfileOptions) -> None:
        table = profile.attention
        lss = options.interpolation == "lss"
        times = lss_attention(table) if lss else measured_attention(table, sizes.kv_read_ns_per_token)
        self._attention: SkewRule = NoSkew(times)
        if options.skew == "lss" and profile.skew:
            self._attention = LssSkew(times, profile.skew)
        elif options.skew == "longest" and (profile.serial or times.serial_ns_per_token):
            self._attention = LongestRead(times, profile.serial, self._fixed.pad_tokens)
        self._limits = Limits(profile, times, self.notices)

    def _set_experts(
        self,
        profile: Profile,
        sizes: ModelSizes,
        options: ProfileOptions,
        routing: ExpertRouting | None,
        layers: range,
    ) -> None:
        self._experts: RoutedExperts | None = None
        self._router_ns: Callable[[int], float] | None = None
        if profile.experts is None or sizes.experts is None or routing is None:
            return
        place = (sizes.experts, self._ranks, self._collectives, sizes.bytes_per_element)
        sharing: ExpertSharing
        if self._lss_parallelism:
            looked_up = lss_experts(profile.experts)
            sharing, self._router_ns = LssExperts(looked_up, *place), looked_up.router_ns
        else:
            measured = measured_experts(profile.experts, sizes.experts)
            last = measured.last_pairs
            sharing = VllmExperts(
                measured, *place, options.all2all_backend, lambda pairs: self._limits.check_pairs(pairs, last)
            )
            self._router_ns = measured.router_ns
        self._experts = RoutedExperts(routing, sharing, layers)

    def duration_ns(self, shape: StepShape) -> int:
        """See `StepModel`."""
        n, tokens = shape.num_decodes, 0
        for new, _ in shape.prefills:
            if new == 1:
                return self.duration_ns(_normalised(shape))
            tokens += new
        if tokens:
            fixed = self._mixed_fixed_ns(n + tokens, n + len(shape.prefills))
            own = fixed + self._layers * self._mixed_attention(shape)
        else:
            own = self._decode_fixed_ns(n) + self._layers * self._decode_attention(shape)
        return _whole(own + self.shared_ns((n + tokens,), shape.draw) if self._experts else own)

    def own_ns(self, shape: StepShape, num_tokens: int, num_sequences: int) -> float:
        """See `RankModel`."""
        shape = _normalised(shape)
        self._limits.check_counts(num_tokens, num_sequences)
        mixed = bool(shape.prefills)
        fixed = self._fixed.tokens_ns(num_tokens) + self._fixed.sequences_ns(num_sequences, mixed)
        return fixed + self._layers * (self._mixed_attention(shape) if mixed else self._decode_attention(shape))

    def shared_ns(self, tokens: Sequence[int], draw: int) -> float:
        """See `RankModel`."""
        return self.shared_parts_ns(tokens, draw).total_ns

    def shared_parts_ns(self, tokens: Sequence[int], draw: int) -> SharedTime:
        """See `OverlapModel`."""
        if self._experts is None:
            return NOTHING_SHARED
        pad = self._fixed.pad_tokens
        return self._experts.times([max(1, pad(count)) for count in tokens], draw)

    def once_ns(self, num_sequences: int) -> float:
        """See `OverlapModel`."""
        return self._fixed.sequences_ns(num_sequences, False)

    def send_ns(self, num_tokens: int) -> float:
        """See `RankModel`.

        vLLM 0.19 sends hidden states and residual; each tensor-parallel rank sends its part of them to its counterpart
        (``send_tensor_dict``), and the receivers gather the parts. LLMServingSim: one message of the hidden states.
        """
        net, ranks = self._collectives, self._ranks
        if ranks.is_last_stage or net is None:
            return 0.0
        num_bytes = self._fixed.pad_tokens(num_tokens) * self._row_bytes
        if self._lss_parallelism:
            return net.send_ns(num_bytes, ranks.tensor)
        sent = net.send_ns(2 * num_bytes / ranks.tensor, ranks.tensor)
        return sent + net.all_gather_ns(2 * num_bytes, ranks.tensor)

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
        self._limits.check_decodes(n, shape.decode_kv_tokens + n * (start + count))
        times = self._attention_run(shape, start, count)
        fixed, layers = self._decode_fixed_ns(n), self._layers
        if self._experts is None:
            return [int(fixed + layers * time + 0.5) or 1 for time in times]
        if self._experts.drawn:
            draws = range(shape.draw + start, shape.draw + start + count)
            shared = [self.shared_ns((n,), draw) for draw in draws]
            return [_whole(fixed + layers * time + more) for time, more in zip(times, shared, strict=True)]
        more = self.shared_ns((n,), 0)
        return [int(fixed + layers * time + more + 0.5) or 1 for time in times]

    def _attention_run(self, shape: StepShape, start: int, count: int) -> Sequence[float]:
        n = shape.num_decodes
        kv_tokens, kv_max = shape.decode_kv_tokens + n * start, shape.decode_kv_max + start
        window = self._window
        if window and (kv_tokens + n * count > n * window or kv_max + count > window):
            return [self._decode_attention(grown_by(shape, start + i)) for i in range(count)]
        return self._attention.decode_run_ns(n, kv_tokens, kv_max, shape.decode_kv_min + start, count)

    def _decode_attention(self, shape: StepShape) -> float:
        shape = _cut(shape, self._window) if self._window else shape
        n, kv_tokens = shape.num_decodes, shape.decode_kv_tokens
        self._limits.check_decodes(n, kv_tokens)
        return self._attention.decode_ns(n, kv_tokens, shape.decode_kv_max, shape.decode_kv_min)

    def _mixed_attention(self, shape: StepShape) -> float:
        shape = _cut(shape, self._window) if self._window else shape
        prefills: Prefills = shape.prefills
        if self._merge and len(prefills) > 1:
            prefills = ((sum(new for new, _ in prefills), sum(context for _, context in prefills)),)
        self._limits.check_prefills(prefills)
        n, kv_tokens = shape.num_decodes, shape.decode_kv_tokens
        self._limits.check_decodes(n, kv_tokens)
        return self._attention.mixed_ns(prefills, n, kv_tokens, shape.decode_kv_max, shape.decode_kv_min)

    def _decode_fixed_ns(self, decodes: int) -> float:
        """Return what does not depend on contexts in a step of decodes alone, experts left out."""
        found = self._decode_fixed.get(decodes)
        if found is None:
            self._limits.check_counts(decodes, decodes)
            fixed = self._fixed.tokens_ns(decodes) + self._fixed.sequences_ns(decodes, False)
            found = self._decode_fixed[decodes] = fixed
        return found

    def _mixed_fixed_ns(self, tokens: int, sequences: int) -> float:
        """Return what does not depend on contexts in a step with chunks, experts left out."""
        by_tokens = self._by_tokens.get(tokens)
        if by_tokens is None:
            self._limits.check_counts(tokens, 0)
            by_tokens = self._by_tokens[tokens] = self._fixed.tokens_ns(tokens)
        by_sequences = self._by_sequences.get(sequences)
        if by_sequences is None:
            self._limits.check_counts(0, sequences)
            by_sequences = self._by_sequences[sequences] = self._fixed.sequences_ns(sequences, True)
        return by_tokens + by_sequences

    def operator_ends_ns(self, shape: StepShape) -> Sequence[int]:
        """Return when each operator of the step ends, from its start."""
        return operator_ends(self.breakdown_ns(shape), self._layers)

    def breakdown_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the time by layer (all blocks together), and other parts.

        ``attention``, ``all_reduce``, ``host_io``, ``host``; of a mixture of experts ``router``, ``experts`` (the
        slowest rank's), ``dispatch`` and ``combine``.
        """
        shape = _normalised(shape)
        mixed = bool(shape.prefills)
        parts = self._fixed.token_parts(shape.num_tokens)
        parts |= self._fixed.sequence_parts(shape.num_sequences, mixed=mixed)
        attention = self._mixed_attention(shape) if mixed else self._decode_attention(shape)
        parts["attention"] = self._layers * attention
        if self._experts:
            shared = self.shared_parts_ns((shape.num_tokens,), shape.draw)
            parts |= {"dispatch": shared.dispatch_ns, "experts": shared.experts_ns, "combine": shared.combine_ns}
        return parts


def _check(
    profile: Profile,
    sizes: ModelSizes,
    ranks: Parallelism,
    collectives: Collectives | None,
    experts: ExpertRouting | None,
) -> None:
    degree = profile.tensor_parallel_size
    if ranks.tensor != degree:
        raise InputError(f"the profile is of tensor_parallel_size {degree}, the rank's place of {ranks.tensor}")
    for name, size in (
        ("tensor_parallel_size", degree),
        ("pipeline_parallel_size", ranks.pipeline),
        ("data_parallel_size", ranks.data),
    ):
        if size > 1 and collectives is None:
            raise InputError(f"{name} {size} needs a link between the ranks")
    if ranks.decode_context > 1 or ranks.prefill_context > 1:
        raise InputError("measured profiles have no times of context parallelism; step: {model: roofline} has")
    if (profile.experts is None) != (sizes.experts is None):
        has = "no experts" if profile.experts is None else "experts"
        raise InputError(f"the profile (of {profile.model}) has {has}, unlike the model: it is another family's")
    if profile.experts is not None and experts is None:
        raise InputError("a mixture of experts needs a rule by which tokens take experts (an expert routing)")


def _cut(shape: StepShape, window: int) -> StepShape:
    """Return the shape with contexts cut to an attention window."""
    n = shape.num_decodes
    return StepShape(
        n,
        min(shape.decode_kv_tokens, n * window),
        tuple((new, min(context, window)) for new, context in shape.prefills),
        min(shape.decode_kv_max, window),
        min(shape.decode_kv_min, window),
    )


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
        shape.draw,
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
