"""Options of parallelism, by vLLM's names."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from servetwin.scenario.base import AS_NAME, Options, PluginOptions, implementation, wrapped

MOST_ACCELERATORS = 65_536

SMOOTH_FACTOR = 0.75
"""Default of ``SGLANG_DYNAMIC_CHUNKING_SMOOTH_FACTOR``."""

PlanName: TypeAlias = Annotated[Any, implementation("stage_times_ns", "execution plan"), AS_NAME]
RoutingName: TypeAlias = Annotated[Any, implementation("loads", "expert routing"), AS_NAME]

Degree: TypeAlias = Annotated[int, Field(ge=1, le=1024)]
Layers: TypeAlias = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)]


class EplbOptions(Options):
    """Redundant experts and rebalancing, by the names of vLLM's ``eplb_config``."""

    num_redundant_experts: int = Field(0, ge=0, le=65_536, description="Copies of experts beyond one of each.")
    window_size: int = Field(1000, ge=1, le=2**31 - 1, description="Steps whose loads decide a placement.")
    step_interval: int = Field(3000, ge=1, le=2**31 - 1, description="Steps from one rebalancing to the next.")
    num_groups: int = Field(1, ge=1, le=65_536, description="Groups of neighbouring experts that stay on one node.")
    num_nodes: int = Field(1, ge=1, le=1024, description="Nodes over which groups are dealt; 1: all the same.")


class ParallelOptions(Options):
    """How one replica is divided among its accelerators."""

    tensor_parallel_size: Degree = Field(1, description="Accelerators that share each layer.")
    pipeline_parallel_size: Degree = Field(
        1, description="Stages of consecutive layers; as many batches are in flight as there are stages."
    )
    pipeline_partition: Literal["vllm", "balanced"] | Layers = Field(
        "vllm",
        description="Layers of each stage: `vllm` (equal, the remainder before the last stage), `balanced` (the "
        "slowest stage takes least; for unequal devices), or a list of numbers (VLLM_PP_LAYER_PARTITION).",
    )
    data_parallel_size: Degree = Field(
        1,
        description="Copies of the attention layers, each with requests and KV of its own. A dense model's copies are "
        "independent instances; one with experts shares these among all, and steps in lockstep.",
    )
    enable_expert_parallel: bool = Field(
        False,
        description="Put whole experts on the accelerators of a stage instead of a part of each expert on all of them.",
    )
    expert_parallel_size: Degree | None = Field(
        None,
        description="Accelerators among which whole experts are dealt out, with enable_expert_parallel; default, and "
        "the only size in vLLM: all accelerators of a stage, over all data-parallel ranks.",
    )
    expert_placement_strategy: Literal["linear", "round_robin"] = Field(
        "linear", description="Which experts lie together on an accelerator: neighbours, or every n-th."
    )
    all2all_backend: Literal["allgather_reducescatter", "deepep_low_latency", "deepep_high_throughput"] = Field(
        "allgather_reducescatter", description="How tokens reach the experts of other accelerators and come back."
    )
    enable_eplb: bool = Field(False, description="Copy and move experts so that loads become even.")
    eplb_config: EplbOptions = Field(EplbOptions(), description="How, with enable_eplb.")
    enable_dbo: bool = Field(
        False, description="Overlap two halves of a batch: one computes while the other's tokens travel to the experts."
    )
    dbo_decode_token_threshold: int = Field(
        32, ge=0, le=2**31 - 1, description="Fewest tokens of a batch of decodes that is split."
    )
    dbo_prefill_token_threshold: int = Field(
        512, ge=0, le=2**31 - 1, description="Fewest tokens of a batch with prompts that is split."
    )
    decode_context_parallel_size: Degree = Field(
        1, description="Accelerators among those of tensor parallelism that divide the cached tokens of a sequence."
    )
    prefill_context_parallel_size: Degree = Field(
        1, description="Further accelerators, each computing a part of a prompt's tokens."
    )
    pipeline_overlaps_chunks: bool = Field(
        True,
        description="In a pipeline, let a prompt's next chunk enter while the one before is in flight, as vLLM does; "
        "false: a request in flight is in no other batch.",
    )
    enable_dynamic_chunking: bool = Field(
        False,
        description="In a pipeline, let the chunks of a prompt shrink as its context grows, so that all take as long "
        "as the first one, of max_num_batched_tokens (SGLang).",
    )
    dynamic_chunking_smooth_factor: float = Field(
        SMOOTH_FACTOR,
        ge=0,
        le=1,
        description="How far dynamic chunks go from the first one's size towards equal times: 0 not at all, 1 all the "
        "way (SGLANG_DYNAMIC_CHUNKING_SMOOTH_FACTOR).",
    )

    @property
    def accelerators(self) -> int:
        """Accelerators of one replica."""
        return self.accelerators_per_rank * self.data_parallel_size

    @property
    def accelerators_per_rank(self) -> int:
        """Accelerators of one data-parallel rank, over all its stages."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.prefill_context_parallel_size

    @model_validator(mode="after")
    def _check_parallel(self) -> ParallelOptions:
        if self.accelerators > MOST_ACCELERATORS:
            raise PydanticCustomError(
                "accelerators", "a replica would have {count} accelerators; at most {most} are allowed",
                {"count": self.accelerators, "most": MOST_ACCELERATORS},
            )  # fmt: skip
        if self.tensor_parallel_size % self.decode_context_parallel_size:
            raise PydanticCustomError(
                "context",
                "decode_context_parallel_size ({part}) must divide tensor_parallel_size ({whole}): its ranks are among "
                "those",
                {"part": self.decode_context_parallel_size, "whole": self.tensor_parallel_size},
            )
        stages = self.pipeline_partition
        if isinstance(stages, tuple) and len(stages) != self.pipeline_parallel_size:
            raise PydanticCustomError(
                "partition", "pipeline_partition has {given} numbers, pipeline_parallel_size is {stages}",
                {"given": len(stages), "stages": self.pipeline_parallel_size},
            )  # fmt: skip
        if self.enable_dynamic_chunking and self.pipeline_parallel_size == 1:
            raise PydanticCustomError(
                "chunking", "enable_dynamic_chunking is for pipelines, as in SGLang: it needs pipeline_parallel_size "
                "above 1",
            )  # fmt: skip
        if self.dynamic_chunking_smooth_factor != SMOOTH_FACTOR and not self.enable_dynamic_chunking:
            raise PydanticCustomError("chunking", "dynamic_chunking_smooth_factor needs enable_dynamic_chunking: true")
        if self.expert_parallel_size is not None and not self.enable_expert_parallel:
            raise PydanticCustomError("experts", "expert_parallel_size needs enable_expert_parallel: true")
        if self.enable_eplb and not self.enable_expert_parallel:
            raise PydanticCustomError("eplb", "enable_eplb needs enable_expert_parallel: true, as in vLLM")
        if self.eplb_config.num_redundant_experts and not self.enable_eplb:
            raise PydanticCustomError("eplb", "eplb_config.num_redundant_experts needs enable_eplb: true, as in vLLM")
        return self


class PlanOptions(PluginOptions):
    """How the parts of a step are put together. Further keys are its options (see below)."""

    kind: PlanName = Field(
        "auto",
        description="`auto` (what the engine's degrees and the hardware ask for), `pipeline`, `lockstep`, "
        "`two_batch_overlap`, `attention_ffn`, `lss_waves`, or a plug-in's name.",
    )


class ExpertOptions(PluginOptions):
    """Which experts the tokens of a step take. Further keys are options of the routing (see below)."""

    routing: RoutingName = Field("balanced", description="Name of a routing policy (`servetwin list expert-routings`).")


PlanField: TypeAlias = Annotated[PlanOptions, BeforeValidator(wrapped("kind"))]
ExpertField: TypeAlias = Annotated[ExpertOptions, BeforeValidator(wrapped("routing"))]
