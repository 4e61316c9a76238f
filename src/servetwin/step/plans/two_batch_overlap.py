"""The plan of two-batch overlap: half a batch computes while the other half's tokens travel to the experts and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from servetwin.core.errors import InputError
from servetwin.step.base import StepShape
from servetwin.step.plans.base import OverlapModel, RankModel, StageTime, execution_plans
from servetwin.step.plans.lockstep import DUMMY, Lockstep


class Half(NamedTuple):
    """One micro-batch in one layer, in nanoseconds: its own part, dispatch, experts, combine."""

    own_ns: float
    dispatch_ns: float
    experts_ns: float
    combine_ns: float


@execution_plans.register("two_batch_overlap")
class TwoBatchOverlap:
    """A lockstep group whose batches are cut in two micro-batches where all ranks have tokens enough.

    Computing and exchanging are two resources; the micro-batches take turns on each, layer by layer (`makespan_ns`).
    Each half reads all weights that it meets, so that a small batch loses. Mirrors vLLM 0.19 (``enable_dbo``,
    ``check_ubatch_thresholds``, ``maybe_create_ubatch_slices``; SGLang has the same as two-batch overlap): a batch is
    cut at the middle of its padded tokens, a prompt's chunk in two if that is where the middle lies.

    Parameters
    ----------
    stages, num_ranks, synchronisation_us
        As of `Lockstep`.
    decode_tokens, prefill_tokens
        Fewest tokens of a rank's batch that is cut, without and with prompts (vLLM's ``dbo_decode_token_threshold``,
        ``dbo_prefill_token_threshold``).
    only_if_faster
        Whether a batch is left whole where cutting it takes longer; an engine does not know.

    Raises
    ------
    InputError
        If a stage cannot tell computing from exchanging, or exchanges in a way that vLLM does not overlap.
    """

    def __init__(
        self,
        stages: Sequence[RankModel],
        num_ranks: int,
        decode_tokens: int = 32,
        prefill_tokens: int = 512,
        only_if_faster: bool = False,
        synchronisation_us: float = 0.0,
    ) -> None:
        self._whole = Lockstep(stages, num_ranks, synchronisation_us)
        self.num_ranks, self.num_stages, self.needs = num_ranks, len(stages), self._whole.needs
        for stage in stages:
            _check(stage)
        self._stages = [cast(OverlapModel, stage) for stage in stages]
        self._decode_tokens, self._prefill_tokens = decode_tokens, prefill_tokens
        self._only_if_faster = only_if_faster
        self._synchronisation_ns = synchronisation_us * 1000.0 if num_ranks > 1 else 0.0

    @property
    def notices(self) -> list[str]:
        """What the stages say."""
        return self._whole.notices

    def stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[StageTime]:
        """See `ExecutionPlan`."""
        if self.is_cut(shapes):
            cut = self._cut_times_ns([shape or DUMMY for shape in shapes])
            if not self._only_if_faster:
                return cut
            whole = self._whole.stage_times_ns(shapes)
            return cut if sum(map(sum, cut)) < sum(map(sum, whole)) else whole
        return self._whole.stage_times_ns(shapes)

    def is_cut(self, shapes: Sequence[StepShape | None]) -> bool:
        """Return whether all of several ranks have tokens enough, and some in both halves."""
        if self.num_ranks == 1:
            return False
        for shape in shapes:
            if shape is None or shape.num_tokens < (self._prefill_tokens if shape.prefills else self._decode_tokens):
                return False
        tokens = [shape.num_tokens for shape in shapes if shape]
        return min(tokens) > max(self._whole.padded(tokens)) // 2 > 0

    def _cut_times_ns(self, batches: Sequence[StepShape]) -> Sequence[StageTime]:
        most = max(self._whole.padded([shape.num_tokens for shape in batches]))
        rows = (most // 2, most - most // 2)
        halves = list(zip(*(cut_shape(shape, rows[0]) for shape in batches), strict=True))
        draw = max(shape.draw for shape in batches)
        sequences = max(shape.num_sequences for shape in batches)
        times = []
        for stage in self._stages:
            first, second = (self._half(stage, half, number, draw) for half, number in zip(halves, rows, strict=True))
            busy_ns = makespan_ns(first, second, stage.expert_layers) + stage.once_ns(sequences)
            if stage is self._stages[0]:
                busy_ns += self._synchronisation_ns
            times.append(StageTime(round(busy_ns) or 1, round(stage.send_ns(most))))
        return times

    def _half(self, stage: OverlapModel, shapes: Sequence[StepShape], rows: int, draw: int) -> Half:
        """Return one micro-batch's parts, in one of the stage's layers with experts (all alike)."""
        own_ns = max(
            stage.own_ns(shape, rows, shape.num_sequences) - stage.once_ns(shape.num_sequences) for shape in shapes
        )
        dispatch_ns, experts_ns, combine_ns = stage.shared_parts_ns([rows] * self.num_ranks, draw)
        layers, slowdown = stage.expert_layers or 1, stage.overlap_slowdown
        return Half(
            own_ns * slowdown / layers, dispatch_ns / layers, experts_ns * slowdown / layers, combine_ns / layers
        )


def makespan_ns(first: Half, second: Half, layers: int) -> float:
    """Return the time of ``layers`` equal layers, two micro-batches alternating on two resources.

    In each layer the accelerator computes own parts of the first and second, then their experts; the network carries
    dispatches of the first and second, then what they combine. A part begins when its resource is free and the part
    before it, of the same micro-batch, is done. After some layers each takes as long as the one before: the rest is
    extrapolated.
    """
    if not layers:
        return first.own_ns + second.own_ns
    computing = exchanging = done_first = done_second = 0.0
    last = period = 0.0
    for layer in range(layers):
        own_first = max(computing, done_first) + first.own_ns
        own_second = max(own_first, done_second) + second.own_ns
        sent_first = max(exchanging, own_first) + first.dispatch_ns
        sent_second = max(sent_first, own_second) + second.dispatch_ns
        experts_first = max(own_second, sent_first) + first.experts_ns
        experts_second = max(experts_first, sent_second) + second.experts_ns
        done_first = max(sent_second, experts_first) + first.combine_ns
        done_second = max(done_first, experts_second) + second.combine_ns
        computing, exchanging = experts_second, done_second
        if layer >= 2 and abs(done_second - last - period) <= 1e-9 * done_second:
            return done_second + (layers - 1 - layer) * period
        last, period = done_second, done_second - last
    return done_second


def cut_shape(shape: StepShape, tokens: int) -> tuple[StepShape, StepShape]:
    """Return the two parts of a batch, the first of ``tokens`` tokens; decodes come first, each of mean context."""
    n = min(shape.num_decodes, tokens)
    kv = round(shape.decode_kv_tokens * n / shape.num_decodes) if n else 0
    left = tokens - n
    before: list[tuple[int, int]] = []
    after: list[tuple[int, int]] = []
    for new, context in shape.prefills:
        taken = min(new, left)
        left -= taken
        if taken:
            before.append((taken, context))
        if new > taken:
            after.append((new - taken, context + taken))
    extremes = (shape.decode_kv_max, shape.decode_kv_min, shape.draw)
    return (
        StepShape(n, kv, tuple(before), *extremes),
        StepShape(shape.num_decodes - n, shape.decode_kv_tokens - kv, tuple(after), *extremes),
    )


def _check(stage: RankModel) -> None:
    if not hasattr(stage, "shared_parts_ns"):
        raise InputError(
            "two-batch overlap needs a step model that tells computing from exchanging (roofline does); "
            f"{type(stage).__name__} does not"
        )
    backend = getattr(stage, "all2all_backend", None)
    if backend == "allgather_reducescatter":
        raise InputError(
            "two-batch overlap (enable_dbo) does not go with all2all_backend allgather_reducescatter in vLLM; "
            "use deepep_low_latency or deepep_high_throughput"
        )
