"""The plan of attention/FFN disaggregation: micro-batches go to and fro between attention and FFN devices.

Attention devices hold attention, norms, router, embedding, LM head and the KV cache; FFN devices hold the MLPs or
experts. In each layer a micro-batch's hidden states travel from M attention ranks to N FFN devices and back. While one
micro-batch is on the FFN devices, another one is on the attention devices.

Sources: MegaScale-Infer (arXiv 2504.02263, ping-pong pipeline parallelism), Step-3 (arXiv 2507.19427, AFD), vLLM's
issue 22799 and the repository vllm-project/afd-plugin (roles, connectors, micro-batches).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from servetwin.core.errors import InputError
from servetwin.step.base import StepShape
from servetwin.step.plans.base import FfnModel, OverlapModel, StageTime, execution_plans
from servetwin.step.plans.lockstep import DUMMY, Lockstep
from servetwin.step.plans.two_batch_overlap import cut_shape

MOST_MICRO_BATCHES = 16


class MicroBatch(NamedTuple):
    """What one micro-batch takes of each resource in one layer, in nanoseconds."""

    attention_ns: float
    dispatch_ns: float
    ffn_ns: float
    combine_ns: float


class Use(NamedTuple):
    """One step: its time, for how long it keeps each resource busy (in nanoseconds), and its micro-batches.

    ``attention_ns`` includes what comes once (LM head, sampler, host). ``latency_ns`` is that of one micro-batch.
    """

    total_ns: float
    attention_ns: float
    dispatch_ns: float
    ffn_ns: float
    combine_ns: float
    latency_ns: float
    micro_batches: int

    @property
    def shares(self) -> dict[str, float]:
        """Share of the step for which each resource is busy: attention and FFN devices, the link's busier direction."""
        link_ns = max(self.dispatch_ns, self.combine_ns)
        busy = {"attention devices": self.attention_ns, "FFN devices": self.ffn_ns, "link between them": link_ns}
        return {name: time_ns / self.total_ns for name, time_ns in busy.items()}


@execution_plans.register("attention_ffn")
class AttentionFfn:
    """Attention ranks in lockstep, and FFN devices that serve them all.

    All ranks deal their batches into as many micro-batches; those of one number go together, padded as `Lockstep` pads.
    An idle rank runs a dummy. Four resources take the micro-batches in turn: attention devices, the links' two
    directions, FFN devices; `makespan_ns` is the time of a step. LM head, sampler and host come once, at the end.

    Parameters
    ----------
    stages
        The rank model of the attention side: one, without FFNs.
    num_ranks
        Data-parallel attention ranks.
    ffn
        The FFN side.
    micro_batches
        How many; ``auto``: for each step, the number with the least time. Each reads the weights anew, so that small
        batches are better left whole.
    most_micro_batches
        The most that ``auto`` tries.

    Raises
    ------
    InputError
        If there are several stages, or a number is out of bounds.
    """

    def __init__(
        self,
        stages: Sequence[OverlapModel],
        num_ranks: int,
        ffn: FfnModel,
        micro_batches: int | Literal["auto"] = "auto",
        most_micro_batches: int = 4,
    ) -> None:
        if len(stages) != 1:
            raise InputError(f"attention/FFN disaggregation has no pipeline stages: 1 is needed, got {len(stages)}")
        given = {"micro_batches": 1 if micro_batches == "auto" else micro_batches}
        for name, number in (given | {"most_micro_batches": most_micro_batches}).items():
            if not 1 <= number <= MOST_MICRO_BATCHES:
                raise InputError(f"must be from 1 to {MOST_MICRO_BATCHES}, got {number}", where=name)
        self.num_ranks, self.num_stages = num_ranks, 1
        self._attention, self._ffn = stages[0], ffn
        self._lockstep = Lockstep(stages, num_ranks)
        self.needs = self._lockstep.needs | ffn.needs
        automatic = range(1, most_micro_batches + 1)
        self._numbers: Sequence[int] = automatic if micro_batches == "auto" else (micro_batches,)

    @property
    def notices(self) -> list[str]:
        """What both sides say."""
        return list(dict.fromkeys([*self._lockstep.notices, *self._ffn.notices]))

    def stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[StageTime]:
        """See `ExecutionPlan`."""
        return [StageTime(round(self.use_of(shapes).total_ns) or 1, 0)]

    def use_of(self, shapes: Sequence[StepShape | None]) -> Use:
        """Return a step's time and its use of each resource, with the best number of micro-batches allowed."""
        batches = [shape or DUMMY for shape in shapes]
        once_ns = max(self._attention.once_ns(shape.num_sequences if shape else 0) for shape in shapes)
        most = max(shape.num_tokens for shape in batches)
        numbers = [number for number in self._numbers if number <= most] or [most]
        return min((self._use(batches, number, once_ns) for number in numbers), key=lambda use: use.total_ns)

    def _use(self, batches: Sequence[StepShape], number: int, once_ns: float) -> Use:
        layers, delay_ns = self._ffn.num_layers, self._ffn.delay_ns
        parts = self._micro_batches(batches, number)
        total_ns = makespan_ns(parts, layers, delay_ns) + once_ns
        attention, dispatch, ffn, combine = (layers * sum(times) for times in zip(*parts, strict=True))
        return Use(total_ns, attention + once_ns, dispatch, ffn, combine, 2 * layers * delay_ns, number)

    def _micro_batches(self, batches: Sequence[StepShape], number: int) -> Sequence[MicroBatch]:
        draw = max(shape.draw for shape in batches)
        if not any(shape.prefills for shape in batches):
            return [self._micro_batch([part_of_decodes(shape, number) for shape in batches], draw)] * number
        dealt = zip(*(deal(shape, number) for shape in batches), strict=True)
        return [self._micro_batch(shapes, draw) for shapes in dealt]

    def _micro_batch(self, shapes: Sequence[StepShape], draw: int) -> MicroBatch:
        """Return the parts of one micro-batch, in one of the layers (all alike); the slowest attention rank counts."""
        model, layers = self._attention, self._ffn.num_layers
        rows = self._lockstep.padded([shape.num_tokens for shape in shapes])
        own_ns = max(
            model.own_ns(shape, tokens, shape.num_sequences) - model.once_ns(shape.num_sequences)
            for shape, tokens in zip(shapes, rows, strict=True)
        )
        dispatch_ns, ffn_ns, combine_ns = self._ffn.parts_ns(rows, draw)
        return MicroBatch(own_ns / layers, dispatch_ns / layers, ffn_ns / layers, combine_ns / layers)

    def bound_by(self, shape: StepShape) -> str:
        """Return which resource is busiest when all ranks have such a batch, as a noun with the shares of all."""
        use = self.use_of([shape] * self.num_ranks)
        first, *others = sorted(use.shares.items(), key=lambda item: -item[1])
        rest = ", ".join(f"{name} {share:.0%}" for name, share in others)
        batches = "1 micro-batch" if use.micro_batches == 1 else f"{use.micro_batches} micro-batches"
        return f"the {first[0]}, busy {first[1]:.0%} of it ({rest}; {batches})"


def makespan_ns(parts: Sequence[MicroBatch], layers: int, delay_ns: float) -> float:
    """Return the time in which micro-batches pass all layers, in nanoseconds.

    A micro-batch visits attention, link, FFN, link in each layer, and is under way for ``delay_ns`` beside each link.
    A resource serves one at a time, in their order. Equal ones have a closed form: with ``r`` a round of one of them
    alone, ``b`` the longest of its parts and ``m`` their number,

        r + (m - 1) b + (layers - 1) max(r, m b)

    (MegaScale-Infer, section 4.1, has the case ``m b >= r``, in which the busiest resource never waits.)
    """
    first = parts[0]
    if all(part == first for part in parts):
        round_ns, longest, number = sum(first) + 2 * delay_ns, max(first), len(parts)
        return round_ns + (number - 1) * longest + (layers - 1) * max(round_ns, number * longest)
    return _unequal_ns(parts, layers, delay_ns)


def _unequal_ns(parts: Sequence[MicroBatch], layers: int, delay_ns: float) -> float:
    """Return the makespan layer by layer, the rest extrapolated once all times have grown alike in a layer.

    All times are maxima of sums of the layer's before, so that if all grow by as much once, they do for ever.
    """
    state = [0.0] * (len(parts) + 4)  # when each micro-batch is back, when each resource is free
    for layer in range(layers):
        grown = _layer(parts, state, delay_ns)
        period = grown[0] - state[0]
        alike = all(abs(after - before - period) <= 1e-9 * after for after, before in zip(grown, state, strict=True))
        state = grown
        if alike:
            return max(state[: len(parts)]) + (layers - 1 - layer) * period
    return max(state[: len(parts)])


def _layer(parts: Sequence[MicroBatch], state: Sequence[float], delay_ns: float) -> list[float]:
    """Return the times after one more layer."""
    back = list(state[: len(parts)])
    attention, dispatch, ffn, combine = state[len(parts) :]
    for number, part in enumerate(parts):
        attention = max(attention, back[number]) + part.attention_ns
        dispatch = max(dispatch, attention) + part.dispatch_ns
        ffn = max(ffn, dispatch + delay_ns) + part.ffn_ns
        combine = max(combine, ffn) + part.combine_ns
        back[number] = combine + delay_ns
    return [*back, attention, dispatch, ffn, combine]


def part_of_decodes(shape: StepShape, number: int) -> StepShape:
    """Return the largest of ``number`` micro-batches into which decodes are dealt evenly, of mean context."""
    n = -(-shape.num_decodes // number)
    kv = -(-shape.decode_kv_tokens * n // shape.num_decodes) if n else 0
    return StepShape(n, kv, (), shape.decode_kv_max, shape.decode_kv_min, shape.draw)


def deal(shape: StepShape, number: int) -> list[StepShape]:
    """Return ``number`` micro-batches of a batch, as even in tokens as can be; decodes first, then chunks, in order."""
    least, larger = divmod(shape.num_tokens, number)
    parts, rest = [], shape
    for i in range(number - 1):
        part, rest = cut_shape(rest, least + (i < larger))
        parts.append(part)
    return [*parts, rest]
