"""How ranks divide a model: tensor, pipeline, data, expert and context parallelism, as vLLM does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from servetwin.core.errors import InputError

Part = Literal["all", "attention", "ffn"]
"""What of each layer a rank holds: all, or one side of attention/FFN disaggregation (`is_ffn`)."""

FFN_NAMES = frozenset({"gate_up_proj", "act_fn", "down_proj", "mlp_all_reduce"})
FFN_PREFIXES = ("experts.", "shared_experts.")

SIZES = ("tensor", "pipeline", "expert", "data", "decode_context", "prefill_context")


@dataclass(frozen=True, slots=True)
class Parallelism:
    """One rank's place among those that share a model.

    Attributes
    ----------
    tensor
        Ranks that divide each layer.
    pipeline, stage
        Stages that divide the layers, and this rank's stage, from 0.
    expert
        Ranks that divide the routed experts among them; 1: every rank holds a part of each expert.
    data
        Ranks that have batches of their own and share the routed experts.
    decode_context
        Tensor-parallel ranks that divide the cached tokens of a sequence (vLLM's ``decode_context_parallel_size``).
    prefill_context
        Ranks that divide the tokens of a prompt's chunk (vLLM's ``prefill_context_parallel_size``); they are further
        accelerators, each with all weights but the routed experts, and a whole KV cache.
    partition
        Layers of each stage (vLLM's ``VLLM_PP_LAYER_PARTITION``); None: as `stage_layers` deals them out.
    part
        What of each layer it holds. Attention alone comes with embedding, norms, router and LM head.

    Raises
    ------
    InputError
        If a size is below 1, the stage does not exist, or the partition does not fit the stages.
    """

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    stage: int = 0
    data: int = 1
    decode_context: int = 1
    prefill_context: int = 1
    partition: tuple[int, ...] | None = None
    part: Part = "all"

    def __post_init__(self) -> None:
        for name in SIZES:
            if getattr(self, name) < 1:
                raise InputError(f"{name} parallelism must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.stage < self.pipeline:
            raise InputError(f"stage must be from 0 to {self.pipeline - 1}, got {self.stage}")
        if self.tensor % self.decode_context:
            raise InputError(
                f"decode_context parallelism {self.decode_context} must divide tensor parallelism {self.tensor}"
            )
        if self.partition is not None and (len(self.partition) != self.pipeline or min(self.partition) < 1):
            raise InputError(
                f"a partition has one number of layers, at least 1, for each of {self.pipeline} stages, got "
                f"{','.join(map(str, self.partition))}"
            )

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.stage == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank holds the LM head."""
        return self.stage == self.pipeline - 1

    @property
    def experts_group(self) -> int:
        """Ranks of one stage that share the routed experts: vLLM's expert-parallel group."""
        return self.tensor * self.prefill_context * self.data

    @property
    def expert_tensor(self) -> int:
        """Ranks that divide one routed expert."""
        return max(1, self.experts_group // self.expert)

    @property
    def sequence_parallel_experts(self) -> bool:
        """Whether tensor-parallel ranks divide the tokens before the experts (vLLM's ``use_sequence_parallel_moe``).

        After attention's all-reduce they all have the same tokens; each would send them once more. So do ranks whose
        experts, or MLPs, lie elsewhere.
        """
        return self.tensor > 1 and (self.part == "attention" or (self.expert > 1 and self.data > 1))

    def holds(self, name: str) -> bool:
        """Return whether a tensor or an operator of this name is in this rank's part of the layers."""
        return self.part == "all" or is_ffn(name) == (self.part == "ffn")


ONE_RANK = Parallelism()


def is_ffn(name: str) -> bool:
    """Return whether a tensor or an operator belongs to the FFN: MLPs, routed and shared experts, not the router."""
    return name.removesuffix(".bias") in FFN_NAMES or name.startswith(FFN_PREFIXES)


def stage_layers(num_layers: int, pipeline: int, stage: int, partition: Sequence[int] | None = None) -> range:
    """Return the indices of a stage's layers.

    As vLLM's ``get_pp_indices``: equal parts; what remains goes one each to the stages before the last, from the back.
    A given partition is taken as it is.

    Raises
    ------
    InputError
        If there are more stages than layers, or the partition does not add up to them.
    """
    if pipeline > num_layers:
        raise InputError(f"pipeline_parallel_size {pipeline} is more than the model's {num_layers} layers")
    if partition is not None:
        if sum(partition) != num_layers:
            given = ",".join(map(str, partition))
            raise InputError(f"the partition {given} has {sum(partition)} layers, the model has {num_layers}")
        sizes = list(partition)
    else:
        sizes = [num_layers // pipeline] * pipeline
        for back in range(2, num_layers % pipeline + 2):
            sizes[-back] += 1
    start = sum(sizes[:stage])
    return range(start, start + sizes[stage])


def balanced_partition(layer_costs: Sequence[Sequence[float]], extra: Sequence[float]) -> tuple[int, ...]:
    """Return how many layers each stage takes so that the slowest stage takes least time.

    Exact, by dynamic programming over the layers; among equal answers the one that fills later stages more.

    Parameters
    ----------
    layer_costs
        What each layer takes on each stage's device, shape ``(stages, layers)``.
    extra
        What a stage does beside its layers (embedding, LM head), shape ``(stages,)``.

    Raises
    ------
    InputError
        If there are more stages than layers.
    """
    stages, layers = len(layer_costs), len(layer_costs[0])
    if stages > layers:
        raise InputError(f"{stages} pipeline stages are more than the model's {layers} layers")
    infinite = float("inf")
    best = [0.0] + [infinite] * layers  # least greatest time of the stages so far, by the layers that they hold
    cuts: list[list[int]] = []
    for costs, more in zip(layer_costs, extra, strict=True):
        sums = [0.0, *accumulate(costs)]
        found = [infinite] * (layers + 1)
        cut = [0] * (layers + 1)
        for end in range(1, layers + 1):
            for start in range(end):
                time = max(best[start], sums[end] - sums[start] + more)
                if time < found[end]:
                    found[end], cut[end] = time, start
        best = found
        cuts.append(cut)
    return _sizes(cuts, layers)


def _sizes(cuts: Sequence[Sequence[int]], layers: int) -> tuple[int, ...]:
    """Return the stages' sizes, followed back from the last."""
    sizes: list[int] = []
    end = layers
    for cut in reversed(cuts):
        sizes.append(end - cut[end])
        end = cut[end]
    return tuple(reversed(sizes))
