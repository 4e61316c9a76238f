"""The scenario file: every key that a user may write, with its type, default and meaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from servetwin.scenario.base import (
    AS_NAME,
    Microseconds,
    Options,
    PluginOptions,
    Seconds,
    Tokens,
    implementation,
    pool_name,
    wrapped,
)
from servetwin.scenario.cost_options import CarbonOptions, CostOptions
from servetwin.scenario.disaggregation_options import DisaggregationOptions, PortOptions, RoleName
from servetwin.scenario.encoder_options import EncoderOptions
from servetwin.scenario.parallel_options import ExpertField, ExpertOptions, ParallelOptions, PlanField, PlanOptions
from servetwin.scenario.placement_options import ColdStartOptions, MemoryOptions, PlacementField
from servetwin.scenario.power_options import PowerOptions
from servetwin.scenario.router_options import RouterOptions
from servetwin.scenario.tier_options import TiersField
from servetwin.scenario.topology_options import TopologyField
from servetwin.scenario.workload_field import WorkloadField

SchedulerName: TypeAlias = Annotated[Any, implementation("plan", "scheduler"), AS_NAME]
OrderingName: TypeAlias = Annotated[Any, implementation("key", "scheduling policy"), AS_NAME]
StepModelName: TypeAlias = Annotated[Any, implementation("duration_ns", "step model"), AS_NAME]

Objective: TypeAlias = Annotated[float, Field(gt=0, le=1e9)] | None

CollectiveName: TypeAlias = Annotated[Any, implementation("all_reduce_ns", "collective"), AS_NAME]

MAX_INSTANCES = 1_000_000


EngineVersion: TypeAlias = Literal["0.11", "0.12", "0.13", "0.14", "0.15", "0.16", "0.17", "0.18", "0.19"]


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, float) else value


def _unlimited(value: Any) -> Any:
    return 0 if value == "unlimited" else value


class LinkOptions(Options):
    """The link between the accelerators of one replica."""

    bandwidth_gb_per_s: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Bandwidth per direction, 10^9 bytes per second; default and, for `auto`, most: the device's own.",
    )
    latency_ns: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="Latency of one hop, and all there is beside the bytes; "
        "default: that of the device's link class, with its time per operation.",
    )


class FfnOptions(Options):
    """Devices of their own for the FFNs (MLPs, experts) of a replica; its other accelerators do all the rest."""

    device: str = Field(description="Name of a device (`servetwin list hardware`).")
    count: int = Field(
        ge=1, le=4096, description="FFN devices of a replica, which serve all its data-parallel attention ranks."
    )
    port: PortOptions = Field(
        PortOptions(), description="Of each device of either side: the way to the other side, each direction by itself."
    )
    link: LinkOptions | None = Field(
        None,
        description="Link between the FFN devices, which divide MLPs among them; default: the device's own. Whole "
        "experts exchange nothing.",
    )


class HardwareOptions(Options):
    """What one replica runs on."""

    device: str = Field(description="Name of a device (`servetwin list hardware`).")
    stage_devices: Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        None, description="Devices of a pipeline's stages where they are not all alike; default: `device` for each."
    )
    count: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Accelerators per replica; default and only value: the product of its degrees.",
    )
    link: LinkOptions = Field(LinkOptions(), description="Link between them, where no topology is given.")
    topology: TopologyField | None = Field(
        None, description="How the accelerators of a replica are joined; default: all over one link."
    )
    ffn: FfnOptions | None = Field(
        None, description="Attention/FFN disaggregation: `device` and its like are then those of attention."
    )
    memory: Annotated[tuple[MemoryOptions, ...], Field(strict=False)] = Field(
        (), description="Memory devices beside the accelerators, on which weights can lie."
    )

    @model_validator(mode="after")
    def _check_link(self) -> HardwareOptions:
        if self.topology is not None and self.link != LinkOptions():
            raise PydanticCustomError(
                "link", "either link or topology is needed, and not both: a topology's levels have their own figures"
            )
        return self


class EngineOptions(ParallelOptions):
    """One serving instance's engine and its limits, by vLLM's names."""

    kind: SchedulerName = Field("vllm", description="`vllm` (V1), `vllm_v0`, `orca`, `static`, or a plug-in's name.")
    version: Annotated[EngineVersion, BeforeValidator(_as_text)] = Field(
        "0.19",
        description="Version of vLLM: decides what its sizing of the KV cache counts. Scheduling is that of 0.19.",
    )
    enforce_eager: bool = Field(
        False, description="Neither compile the model nor capture CUDA graphs; leaves more memory for KV."
    )
    max_num_seqs: Annotated[int, BeforeValidator(_unlimited)] = Field(
        256, ge=0, le=2**24, description='Most requests that run at once; 0 or "unlimited": max_num_batched_tokens.'
    )
    max_num_batched_tokens: Tokens = Field(2048, description="Most tokens computed in one step.")
    long_prefill_token_threshold: int = Field(
        0, ge=0, le=2**31 - 1, description="Longest chunk of one prompt in a step; 0: no limit."
    )
    enable_chunked_prefill: bool = Field(True, description="Whether a prompt may be split over steps.")
    enable_prefix_caching: bool = Field(True, description="Whether KV blocks of equal prefixes are shared and kept.")
    scheduler_reserve_full_isl: bool = Field(
        True, description="Admit a request only when blocks for its whole prompt are free."
    )
    scheduling_policy: OrderingName = Field(
        "fcfs",
        description="Order of the waiting queue: `fcfs`, `priority`, `shortest_prompt_first`, or a plug-in's name.",
    )
    block_size: int = Field(16, ge=1, le=2**20, description="Tokens per KV block.")
    gpu_memory_utilization: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Part of the device's memory, as CUDA reports it, that the engine may use (`docs/kv-capacity.md`).",
    )
    num_gpu_blocks_override: int | None = Field(
        None, ge=2, le=2**31 - 1,
        description="KV blocks, vLLM's null block among them (so one less can be used); default: from memory.",
    )  # fmt: skip
    max_model_len: Tokens | None = Field(
        None, description="Longest prompt + output; longer requests are rejected. Default: the model's context length, "
        "at most max_num_batched_tokens where prompts are never split.",
    )  # fmt: skip
    dtype: Literal["auto", "bfloat16", "float16", "float32", "fp8", "int8"] = Field(
        "auto", description="Type of the weights; auto: the model's own."
    )
    kv_cache_dtype: Literal["auto", "bfloat16", "float16", "float32", "fp8"] = Field(
        "auto", description="Type of the KV cache; auto: dtype."
    )
    async_scheduling: bool = Field(
        False,
        description="Plan a step while the one before runs (vLLM's own default from 0.14 on): a request that comes "
        "later enters one step later, and the roofline's own host overhead is smaller, hidden behind the step.",
    )
    idle_poll_us: Microseconds = Field(
        0.0, description="An idle engine sees an arrival only at multiples of this after it fell idle; 0: at once."
    )

    @model_validator(mode="after")
    def _check(self) -> EngineOptions:
        limit = self.num_sequences
        if limit > self.max_num_batched_tokens:
            raise PydanticCustomError(
                "budget", "max_num_batched_tokens ({budget}) must be at least max_num_seqs ({limit}), as in vLLM",
                {"budget": self.max_num_batched_tokens, "limit": limit},
            )  # fmt: skip
        if self.whole_prompts and self.enable_dynamic_chunking:
            raise PydanticCustomError(
                "chunking", "enable_dynamic_chunking needs prompts that are split: enable_chunked_prefill: true and "
                "kind: vllm",
            )  # fmt: skip
        if self.whole_prompts and self.max_model_len and self.max_model_len > self.max_num_batched_tokens:
            raise PydanticCustomError(
                "whole_prompts",
                "max_model_len ({length}) must be at most max_num_batched_tokens ({budget}): prompts are not split",
                {"budget": self.max_num_batched_tokens, "length": self.max_model_len},
            )
        return self

    @property
    def num_sequences(self) -> int:
        """``max_num_seqs`` as a number."""
        return self.max_num_seqs or self.max_num_batched_tokens

    @property
    def whole_prompts(self) -> bool:
        """Whether a prompt is always computed in one step."""
        return not self.enable_chunked_prefill or self.kind in ("vllm_v0", "orca", "static")


class HostOptions(Options):
    """Time that the host adds to a step, beyond the accelerator's."""

    per_step_us: Microseconds | None = Field(None, description="Per step; default: that of the step model.")
    per_request_us: Microseconds | None = Field(
        None, description="Per request in the step; default: that of the step model."
    )


class CollectiveOptions(PluginOptions):
    """What an all-reduce among the accelerators of a replica takes. Further keys are its options (see below)."""

    kind: CollectiveName = Field(
        "default",
        description="`default`: `auto` (the cheapest algorithm) on a topology, on NVLink 3 to 5 and on Infinity Fabric "
        "4 where no latency is given; `ring` over other links; or the name of an algorithm (`servetwin list "
        "collectives`), or a plug-in's.",
    )


class StepOptions(PluginOptions):
    """How long a step takes. Further keys are options of the step model (see below)."""

    model: StepModelName = Field(
        "roofline", description="`roofline`, `profile`, `affine`, `fixed`, or a plug-in's name."
    )
    path: str | None = Field(None, description="Of a measured profile: its folder, relative to the scenario file.")
    collective: Annotated[CollectiveOptions, BeforeValidator(wrapped("kind"))] = Field(
        CollectiveOptions(), description="What tensor parallelism's collectives take."
    )
    plan: PlanField = Field(PlanOptions(), description="How the parts of a step are put together.")
    experts: ExpertField = Field(ExpertOptions(), description="Which experts the tokens of a step take.")
    host: HostOptions = Field(HostOptions(), description="Host overhead.")


class PoolOptions(Options):
    """A pool of equal replicas."""

    name: Annotated[str, AfterValidator(pool_name)] = Field(
        description="Name, unique in the cluster: letters, digits, `-` and `_`."
    )
    replicas: int = Field(1, ge=1, le=MAX_INSTANCES, description="Number of equal instances.")
    role: RoleName = Field(
        "both", description="What its instances compute: prompts (`prefill`), outputs (`decode`), or `both`."
    )
    model: str | None = Field(None, description="Model that this pool serves; default: the scenario's.")
    tiers: TiersField | None = Field(
        None, description="KV tiers below its devices, see `docs/kv-tiers.md`; default: the scenario's."
    )
    hardware: HardwareOptions | None = Field(
        None, description="What a replica runs on; needed by step models that compute from a device."
    )
    engine: EngineOptions = Field(EngineOptions(), description="Engine and limits.")
    step: Annotated[StepOptions, BeforeValidator(wrapped("model"))] = Field(
        StepOptions(), description="Step-time model."
    )
    placement: PlacementField | None = Field(
        None, description="Weights that lie outside the accelerators (`auto`: chosen); default: none."
    )
    cold_start: ColdStartOptions | None = Field(
        None, description="Instances begin without the model and load it first; default: it is there."
    )

    @model_validator(mode="after")
    def _check_ffn(self) -> PoolOptions:
        if self.hardware is None or self.hardware.ffn is None:
            return self
        engine, plan = self.engine, self.step.plan.kind
        conflicts = {
            "engine.pipeline_parallel_size": engine.pipeline_parallel_size > 1,
            "engine.prefill_context_parallel_size": engine.prefill_context_parallel_size > 1,
            "engine.expert_parallel_size": engine.expert_parallel_size is not None,
            "engine.enable_dbo": engine.enable_dbo,
            "step.plan.kind": plan not in ("auto", "attention_ffn"),
            "placement": self.placement is not None,
            "cold_start": self.cold_start is not None,
        }
        for key, conflict in conflicts.items():
            if conflict:
                raise PydanticCustomError(
                    "ffn", "hardware.ffn (attention and FFN on different devices) does not go with {key}; leave it out",
                    {"key": key},
                )  # fmt: skip
        return self

    @model_validator(mode="after")
    def _check_count(self) -> PoolOptions:
        count = self.hardware.count if self.hardware else None
        if count is not None and count != self.engine.accelerators:
            raise PydanticCustomError(
                "count",
                "hardware.count ({count}) must equal the product of the engine's degrees of parallelism ({size})",
                {"count": count, "size": self.engine.accelerators},
            )
        devices = self.hardware.stage_devices if self.hardware else None
        if devices is not None and len(devices) != self.engine.pipeline_parallel_size:
            raise PydanticCustomError(
                "stages", "hardware.stage_devices has {given} names, engine.pipeline_parallel_size is {stages}",
                {"given": len(devices), "stages": self.engine.pipeline_parallel_size},
            )  # fmt: skip
        return self


class FrontEndOptions(Options):
    """Constant delays between a client and an instance."""

    request_us: Microseconds = Field(0.0, description="From the client's sending to the arrival at the router.")
    response_us: Microseconds = Field(0.0, description="From a token's end at the server to its arrival at the client.")


class SloOptions(Options):
    """Service level objectives of one request; one that is left out is not asked for."""

    ttft_s: Objective = Field(None, description="Longest time to first token.")
    tpot_s: Objective = Field(None, description="Longest mean time per output token after the first.")
    e2e_s: Objective = Field(None, description="Longest time from arrival to finish.")
    queue_s: Objective = Field(None, description="Longest time from arrival to the first step.")

    @property
    def limits(self) -> dict[str, float]:
        """The objectives that are set, by name."""
        return {name: limit for name, limit in self if limit is not None}


class OutputOptions(Options):
    """What is written down."""

    interval_s: float = Field(1.0, ge=1e-6, le=1e9, description="Length of a row of timeline.csv and resources.csv.")
    warmup_s: Seconds = Field(0.0, description="Requests that arrive before this are left out of the means.")


class Scenario(Options):
    """A whole scenario: a cluster, its models, and the load on it."""

    seed: int = Field(0, ge=0, le=2**63 - 1, description="Seed of every random stream.")
    model: str | None = Field(
        None,
        description="Built-in model (`servetwin list models`), or path of a `config.json`.",
    )
    cluster: Annotated[tuple[PoolOptions, ...], Field(strict=False)] = Field(description="Pools of equal replicas.")
    router: Annotated[RouterOptions, BeforeValidator(wrapped("policy"))] = Field(
        RouterOptions(), description="Which instance serves a request."
    )
    disaggregation: DisaggregationOptions | None = Field(
        None, description="How requests get from prefill to decode pools; default, where there are such: `nixl`."
    )
    encoders: EncoderOptions | None = Field(
        None, description="Encoders of images, see `docs/encoders.md`; needed where requests have `encoder_tokens`."
    )
    tiers: TiersField | None = Field(
        None, description="KV tiers of all pools that name none of their own, see `docs/kv-tiers.md`."
    )
    workload: WorkloadField = Field(description="The requests, see `docs/workloads.md`.")
    front_end: FrontEndOptions | None = Field(None, description="Delays between clients and the router.")
    slo: SloOptions = Field(SloOptions(), description="Service level objectives.")
    power: PowerOptions | None = Field(None, description="Power and energy, see `docs/power.md`; default: left out.")
    cost: CostOptions | None = Field(None, description="Cost, see `docs/cost.md`; default: left out.")
    carbon: CarbonOptions | None = Field(None, description="Emissions, see `docs/cost.md`; default: left out.")
    output: OutputOptions = Field(OutputOptions(), description="What is written down.")

    @model_validator(mode="after")
    def _check_pools(self) -> Scenario:
        if not self.cluster:
            raise PydanticCustomError("pools", "cluster has no pool; at least one is needed")
        names = [pool.name for pool in self.cluster]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PydanticCustomError("pools", "two pools have the name {name}", {"name": repr(twice[0])})
        taken = sorted({"encoder", "encoders"} & set(names)) if self.encoders is not None else []
        if taken:
            raise PydanticCustomError(
                "pools", "a pool may not have the name {name} beside encoders; rename it", {"name": repr(taken[0])}
            )
        if self.disaggregation is not None and all(pool.role == "both" for pool in self.cluster):
            raise PydanticCustomError(
                "roles", "disaggregation needs pools with role: prefill and role: decode; all have role: both"
            )
        instances = sum(pool.replicas * pool.engine.data_parallel_size for pool in self.cluster)
        if instances > MAX_INSTANCES:
            raise PydanticCustomError(
                "instances", "the cluster has {given} instances; at most {allowed} are allowed",
                {"given": instances, "allowed": MAX_INSTANCES},
            )  # fmt: skip
        return self
