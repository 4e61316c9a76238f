"""The step model, and the rank model, of an accelerator some of whose weights lie elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from servetwin.core.errors import InputError
from servetwin.core.units import NS_PER_S
from servetwin.memory.placement import PlacedWeights
from servetwin.memory.weights import IN_LAYERS, operator_of
from servetwin.step.base import StepModel, StepModelBase, StepShape, grown_by
from servetwin.step.experts.base import ExpertRouting
from servetwin.step.offload.on_demand import ExpertsOnDemand
from servetwin.step.offload.schedules import schedule_of
from servetwin.step.plans.base import RankModel

PART = "weight_load"
"""The part of a step's breakdown in which loads are waited for."""


class OffloadedStepModel(StepModelBase):
    """A step that waits for weights which lie outside the accelerator.

    Parameters
    ----------
    base
        What the step takes with all weights at hand. Its ``breakdown_ns`` tells both ends from the layers.
    placed
        Where the weights lie.
    routing
        Which experts tokens take, for experts that are loaded on demand; None: evenly spread.

    Raises
    ------
    InputError
        If ``base`` has no breakdown into operators.
    """

    def __init__(
        self,
        base: StepModel,
        placed: PlacedWeights,
        routing: ExpertRouting | None = None,
    ) -> None:
        super().__init__()
        if not _tells_parts(base):
            raise InputError(
                "weights elsewhere need a step model that tells its parts (roofline, profile); "
                f"{type(base).__name__} does not"
            )
        self.base = base
        self.placed = placed
        self._schedule = schedule_of(placed)
        self.experts = ExpertsOnDemand(placed, routing) if placed.placement.experts is not None else None
        self._drawn = self.experts is not None and self.experts.draws
        self.needs = base.needs | ({"draw"} if self._drawn else frozenset())
        self._parts: dict[tuple[int, int, bool], Mapping[str, float]] = {}

    @property
    def notices(self) -> list[str]:
        """What the base says, and how often experts are found on the accelerator."""
        said = list(self.base.notices) + self._own_notices
        if self.experts is not None:
            cache = self.placed.placement.experts
            assert cache is not None
            rates = ", ".join(f"{self.experts.hit_share(n):.0%} at {n} tokens a step" for n in (1, 16, 256))
            said.append(f"experts on {cache.device}, {cache.cached} per layer cached: expected hit rate {rates}")
        return list(dict.fromkeys(said))

    @notices.setter
    def notices(self, notices: list[str]) -> None:
        self._own_notices = notices

    def duration_ns(self, shape: StepShape) -> int:
        """See `StepModel`."""
        return self._whole_ns(shape, self.base.duration_ns(shape))

    def _whole_ns(self, shape: StepShape, computing_ns: float) -> int:
        loads_ns = self.expert_load_ns(shape.num_tokens * self.placed.ranks.data, shape.draw)
        whole_ns = self._with_loads(shape, computing_ns + loads_ns)
        return max(1, round(max(whole_ns, loads_ns + self._beside_experts_ns(shape))))

    def _beside_experts_ns(self, shape: StepShape) -> float:
        """Return how long the device of experts that come on demand is busy with anything else."""
        cache, kv = self.placed.placement.experts, self.placed.placement.kv
        if cache is None:
            return 0.0
        num_bytes: float = self.placed.bytes_of_layers.get(cache.device, 0)
        if kv is not None and kv.device == cache.device:
            num_bytes += self._kv_bytes(shape)
        return num_bytes / self.placed.devices[cache.device].rate_bytes_per_s * NS_PER_S

    def _kv_bytes(self, shape: StepShape) -> float:
        """Return the bytes of keys and values elsewhere that a step moves on one rank."""
        kv = self.placed.placement.kv
        share = kv.share if kv is not None else 0.0
        return kv_tokens(shape) * share * self.placed.kv_bytes_per_token * len(self.placed.layers)

    def _with_loads(self, shape: StepShape, computing_ns: float) -> float:
        key = (shape.num_tokens, shape.num_sequences, bool(shape.prefills))
        parts = self._parts.get(key)
        if parts is None:
            parts = self._parts[key] = self.base.breakdown_ns(shape)
        return max(computing_ns, self._schedule.step_ns(computing_ns, parts, key, kv_tokens(shape)))

    def expert_load_ns(self, tokens: int, draw: int) -> float:
        """Return how long a step waits for experts; ``tokens`` of all data-parallel ranks."""
        return self.experts.load_ns(tokens, draw) if self.experts is not None else 0.0

    def decode_run_ns(self, shape: StepShape, max_steps: int, limit_ns: int) -> Sequence[int]:
        """See `StepModel`: the base's run, each step with its loads."""
        if self._drawn:
            return super().decode_run_ns(shape, max_steps, limit_ns)
        durations: list[int] = []
        kv_stays = self.placed.placement.kv is None
        total = 0
        stretch = 1.0
        while len(durations) < max_steps and total < limit_ns:
            done = len(durations)
            left = max(1, int((limit_ns - total) / stretch) + 1)
            part = self.base.decode_run_ns(_later(shape, done), max_steps - done, left)
            for number, computing_ns in enumerate(part):
                grown = shape if kv_stays else _later(shape, done + number)
                duration = self._whole_ns(grown, computing_ns)
                durations.append(duration)
                total += duration
                if total >= limit_ns:
                    break
            stretch = durations[-1] / part[min(len(part), len(durations) - done) - 1]
        return durations

    def breakdown_ns(self, shape: StepShape) -> Mapping[str, float]:
        """Return the base's parts, and ``weight_load``: what of the loads nothing hides."""
        parts = dict(self.base.breakdown_ns(shape))
        computing_ns = sum(parts.values())
        parts[PART] = max(0.0, self.duration_ns(shape) - computing_ns)
        return parts

    def operator_ends_ns(self, shape: StepShape) -> Sequence[int]:
        """Return when each operator ends, where the base knows; what is waited for counts before the first."""
        ends = getattr(self.base, "operator_ends_ns", None)
        if ends is None:
            return [self.duration_ns(shape)]
        own: Sequence[int] = ends(shape)
        waited = self.duration_ns(shape) - self.base.duration_ns(shape)
        return [waited + end for end in own]

    def loaded_bytes(self, shape: StepShape) -> Mapping[str, float]:
        """Return the bytes that one rank moves in a step, by memory device (an embedding's rows left out)."""
        found: dict[str, float] = dict(self.placed.bytes_of_layers)
        for name, (device, num_bytes) in self.placed.ends.items():
            if name != "embedding":
                found[device] = found.get(device, 0.0) + num_bytes
        kv = self.placed.placement.kv
        if kv is not None:
            found[kv.device] = found.get(kv.device, 0.0) + self._kv_bytes(shape)
        cache = self.placed.placement.experts
        if self.experts is not None and cache is not None:
            tokens = shape.num_tokens * self.placed.ranks.data
            found[cache.device] = found.get(cache.device, 0.0) + self.experts.loaded_bytes(tokens, shape.draw)
        return found

    def bound_by(self, shape: StepShape) -> str:
        """Return what limits most of a step: loads of weights, or what limits the base."""
        parts = self.breakdown_ns(shape)
        if parts[PART] > 0.5 * sum(parts.values()):
            return "loading weights"
        own = getattr(self.base, "bound_by", None)
        if own is not None:
            return str(own(shape))
        return max((name for name in parts if name != PART), key=lambda name: parts[name])

    def work(self, shape: StepShape) -> Any:
        """Return the base's work, see there.

        Raises
        ------
        InputError
            If it does not know.
        """
        work = getattr(self.base, "work", None)
        if work is None:
            raise InputError(f"{type(self.base).__name__} does not know the work of a step", where="base")
        return work(shape)


class OffloadedRankModel(OffloadedStepModel):
    """The same as one stage of a pipeline or of ranks in lockstep (a `RankModel`).

    What is waited for is worked out for a batch that all data-parallel ranks have alike, and counts to a rank's own
    part. Raises as `OffloadedStepModel`.
    """

    @property
    def rank(self) -> RankModel:
        """The base, as a rank model."""
        return cast(RankModel, self.base)

    @property
    def graph_limit(self) -> int:
        """See `RankModel`."""
        return int(getattr(self.base, "graph_limit", 0))

    def own_ns(self, shape: StepShape, num_tokens: int, num_sequences: int) -> float:
        """See `RankModel`."""
        own = self.rank.own_ns(shape, num_tokens, num_sequences)
        tokens = (num_tokens,) * self.placed.ranks.data
        shared = self.shared_ns(tokens, shape.draw)
        return self._with_loads(shape, own + shared) - shared

    def shared_ns(self, tokens: Sequence[int], draw: int) -> float:
        """See `RankModel`; experts that are loaded on demand are waited for here."""
        return self.rank.shared_ns(tokens, draw) + self.expert_load_ns(sum(tokens), draw)

    def send_ns(self, num_tokens: int) -> float:
        """See `RankModel`."""
        return self.rank.send_ns(num_tokens)


def _tells_parts(base: StepModel) -> bool:
    """Return whether a step model's breakdown has operators with weights."""
    try:
        parts = base.breakdown_ns(StepShape(1, 1, (), 1, 1))
    except (AttributeError, NotImplementedError):
        return False
    return any(operator_of(name) in IN_LAYERS for name in parts)


def kv_tokens(shape: StepShape) -> int:
    """Return the tokens whose keys and values a step reads or writes."""
    return shape.decode_kv_tokens + shape.num_decodes + sum(new + context for new, context in shape.prefills)


def offloaded(
    base: StepModel,
    placed: PlacedWeights,
    routing: ExpertRouting | None = None,
) -> OffloadedStepModel:
    """Return a step model with its weights elsewhere; a rank model where ``base`` is one."""
    kind = OffloadedRankModel if hasattr(base, "own_ns") else OffloadedStepModel
    return kind(base, placed, routing)


def _later(shape: StepShape, steps: int) -> StepShape:
    return grown_by(shape, steps) if steps else shape
