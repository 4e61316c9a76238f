"""What one replica of a pool is made of: model, device, link, memory; worked out only when something asks for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from servetwin.core.errors import InputError
from servetwin.core.units import GB
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.catalogue import load_model
from servetwin.llm.checks import check_parallelism
from servetwin.llm.parallel import Parallelism, Part
from servetwin.scenario.schema import EngineOptions, HardwareOptions, PoolOptions

if TYPE_CHECKING:
    from servetwin.hardware.base import Device
    from servetwin.memory.kv_capacity import KvCapacity
    from servetwin.memory.placement import PlacedWeights
    from servetwin.network.base import Link
    from servetwin.network.topology import Topology


@dataclass(frozen=True)
class Replica:
    """One replica of a pool, and what follows from it.

    Attributes
    ----------
    pool
        Its options.
    model_name
        The pool's model, or the scenario's; None where neither names one.
    folder
        From which relative paths count.
    seed
        The scenario's.
    partition
        Layers of each pipeline stage where they were balanced; else those of the options count.
    allow_commands
        Whether external commands may run.
    is_ffn
        Whether it stands for the FFN devices of a replica (`servetwin.scenario.attention_ffn`).
    link_share
        Share of the bandwidth that collectives get of the outermost links between its accelerators.
    chosen
        What was chosen for ``placement: auto``, in words.
    """

    pool: PoolOptions
    model_name: str | None
    folder: Path
    seed: int = 0
    partition: tuple[int, ...] | None = None
    allow_commands: bool = False
    chosen: tuple[str, ...] = ()
    is_ffn: bool = False
    link_share: float = 1.0

    @property
    def part(self) -> Part:
        """What of each layer its accelerators hold."""
        if self.is_ffn:
            return "ffn"
        return "attention" if self.pool.hardware is not None and self.pool.hardware.ffn is not None else "all"

    @property
    def where(self) -> str:
        """The pool's path in the scenario."""
        return f"cluster.{self.pool.name}"

    @property
    def hardware_where(self) -> str:
        """The path of its hardware in the scenario."""
        return f"{self.where}.hardware.ffn" if self.is_ffn else f"{self.where}.hardware"

    @property
    def account(self) -> str:
        """The name under which its hardware is accounted: the pool's; that of FFN devices is no pool's name."""
        return f"{self.pool.name}.ffn" if self.is_ffn else self.pool.name

    @property
    def engine(self) -> EngineOptions:
        """The engine's options."""
        return self.pool.engine

    @property
    def dtype(self) -> str | None:
        """Format of the weights; None: as published."""
        return None if self.engine.dtype == "auto" else self.engine.dtype

    @property
    def kv_cache_dtype(self) -> str | None:
        """Format of the KV cache; None: as the weights."""
        return None if self.engine.kv_cache_dtype == "auto" else self.engine.kv_cache_dtype

    @cached_property
    def has_model(self) -> bool:
        """Whether a model is named."""
        return self.model_name is not None

    @cached_property
    def model(self) -> ModelArchitecture:
        """The model's architecture."""
        if self.model_name is None:
            raise InputError("no model is named, here or at the top; name one", where=f"{self.where}.model")
        where = f"{self.where}.model" if self.pool.model else "model"
        model = load_model(self.model_name, relative_to=self.folder, where=where)
        check_parallelism(model, self._ranks_of(model), where=f"{self.where}.engine")
        return model

    @cached_property
    def ranks(self) -> Parallelism:
        """How the model is divided, as seen from the first stage."""
        if not self.has_model:
            engine = self.engine
            return Parallelism(engine.tensor_parallel_size, engine.pipeline_parallel_size)
        return self._ranks_of(self.model)

    def _ranks_of(self, model: ModelArchitecture) -> Parallelism:
        engine = self.engine
        part = self.part
        shared = model.is_moe and part != "attention"
        tensor, data = engine.tensor_parallel_size, engine.data_parallel_size if shared else 1
        if engine.enable_expert_parallel and not model.is_moe:
            where = f"{self.where}.engine.enable_expert_parallel"
            raise InputError(f"{model.name} has no experts; leave this out", where=where)
        group = tensor * data * engine.prefill_context_parallel_size
        given = engine.pipeline_partition
        return Parallelism(
            tensor=tensor,
            pipeline=engine.pipeline_parallel_size,
            expert=(engine.expert_parallel_size or group) if engine.enable_expert_parallel and shared else 1,
            data=data,
            decode_context=engine.decode_context_parallel_size,
            prefill_context=engine.prefill_context_parallel_size,
            partition=given if isinstance(given, tuple) else self.partition,
            part=part,
        )

    @property
    def hardware(self) -> HardwareOptions:
        """The hardware's options."""
        if self.pool.hardware is None:
            raise InputError("no device is named; give hardware: {device: ...}", where=f"{self.where}.hardware")
        return self.pool.hardware

    @property
    def device_name(self) -> str:
        """The device's name as the scenario has it, empty where it has none."""
        return self.pool.hardware.device if self.pool.hardware else ""

    @cached_property
    def device(self) -> Device:
        """The device's data sheet."""
        from servetwin.hardware.catalogue import load_device

        return load_device(self.hardware.device, relative_to=self.folder, where=f"{self.hardware_where}.device")

    def stage_device(self, stage: int) -> Device:
        """Return the device of a pipeline stage."""
        names = self.hardware.stage_devices
        if names is None:
            return self.device
        from servetwin.hardware.catalogue import load_device

        where = f"{self.hardware_where}.stage_devices[{stage}]"
        return load_device(names[stage], relative_to=self.folder, where=where)

    @property
    def notices(self) -> list[str]:
        """What a user should know: a device that nothing looked up, and that does not exist, may be misspelt."""
        if self.pool.hardware is None:
            return list(self.chosen)
        try:
            self.device  # noqa: B018
        except InputError as error:
            known = str(error).partition(". Allowed:")[0]
            return [f"{known}. Nothing here needs its data sheet, so the name is only shown", *self.chosen]
        return list(self.chosen)

    @cached_property
    def placed_stages(self) -> tuple[PlacedWeights, ...]:
        """Where the weights of each stage lie; empty where all stay on the accelerators."""
        from servetwin.scenario.placement import placed_stages

        return placed_stages(self)

    @cached_property
    def link(self) -> Link | None:
        """The link between the accelerators: as given, else the device's; None for a single one."""
        if self.engine.accelerators == 1:
            return None
        from servetwin.network.base import Link

        if self.topology is not None:
            inner = self.topology.levels[0]
            return Link(inner.bandwidth_bytes_per_s, inner.latency_ns)
        given = self.hardware.link
        bandwidth = None if given.bandwidth_gb_per_s is None else given.bandwidth_gb_per_s * GB * self.link_share
        if bandwidth is not None and given.latency_ns is not None:
            return Link(bandwidth, given.latency_ns)
        default = self._default_link
        bandwidth = default.bandwidth_bytes_per_s * self.link_share if bandwidth is None else bandwidth
        if given.latency_ns is not None:
            return Link(bandwidth, given.latency_ns)
        return Link(bandwidth, default.latency_ns, default.operation_ns)

    @cached_property
    def topology(self) -> Topology | None:
        """How the accelerators are joined; None: all over one link."""
        options, where = self.hardware.topology, f"{self.where}.hardware.topology"
        if options is None:
            return None
        topology = options.build(where)
        try:
            topology.check_group(self.engine.accelerators)
        except InputError as error:
            raise InputError(str(error), where=where) from None
        return topology if self.link_share == 1.0 else topology.with_outer_share(self.link_share)

    @property
    def _default_link(self) -> Link:
        """The device's link to its neighbours, else the one through its host."""
        from servetwin.network.base import Link
        from servetwin.network.links import link_class

        where = f"{self.hardware_where}.link"
        device = self.device
        if device.scale_up is not None:
            link = link_class(device.scale_up.link_class, where=where).link
            return Link(device.scale_up.bandwidth_bytes_per_s, link.latency_ns, link.operation_ns)
        if device.pcie is not None:
            return link_class(device.pcie.link_class, where=where).link
        raise InputError(f"{device.name} has no known link; give bandwidth_gb_per_s and latency_ns", where=where)

    @cached_property
    def capacity(self) -> KvCapacity:
        """The KV cache that the devices' memory has room for: that of the stage with the fewest blocks."""
        stages = [self._stage_capacity(stage) for stage in range(self.ranks.pipeline)]
        return self._limited(min(stages, key=lambda capacity: capacity.num_blocks))

    def _limited(self, capacity: KvCapacity) -> KvCapacity:
        """Return the capacity with no more blocks than those whose part elsewhere has room there."""
        from servetwin.scenario.placement import most_kv_blocks

        most = most_kv_blocks(self)
        if most is None or most >= capacity.num_blocks:
            return capacity
        if most < 1:
            raise InputError("no KV block has room on the memory device", where=f"{self.where}.placement.kv.device")
        return replace(capacity, num_blocks=most)

    def _stage_capacity(self, stage: int) -> KvCapacity:
        from servetwin.memory import ProfilingStep, kv_capacity

        engine = self.engine
        step = ProfilingStep(
            max_num_batched_tokens=engine.max_num_batched_tokens,
            max_num_seqs=engine.num_sequences,
            max_model_len=self.max_model_len,
            version=engine.version,
            enforce_eager=engine.enforce_eager,
        )
        return kv_capacity(
            self.model,
            self.stage_device(stage),
            parallelism=replace(self.ranks, stage=stage),
            gpu_memory_utilization=engine.gpu_memory_utilization,
            block_size=engine.block_size,
            dtype=self.dtype,
            kv_cache_dtype=self.kv_cache_dtype,
            step=step,
            where=f"{self.where}.engine",
            away_bytes=self.placed_stages[stage].freed_bytes if self.placed_stages else 0,
            kv_here=self.placed_stages[stage].kv_here if self.placed_stages else 1.0,
        )

    @property
    def memory_facts(self) -> dict[str, int]:
        """One device's memory by what it goes to; empty where the number of blocks is given."""
        return {} if self.engine.num_gpu_blocks_override is not None else self.capacity.breakdown

    @cached_property
    def num_gpu_blocks(self) -> int:
        """KV blocks as vLLM counts them, its null block included."""
        if self.engine.num_gpu_blocks_override is not None:
            return self.engine.num_gpu_blocks_override
        if not self.has_model:
            raise InputError(
                "the KV cache's size follows from a model and a device; name a model, or give num_gpu_blocks_override",
                where=f"{self.where}.engine",
            )
        return self.capacity.num_blocks

    @cached_property
    def max_model_len(self) -> int:
        """Longest prompt + output."""
        engine, given = self.engine, self.engine.max_model_len
        if not self.has_model:
            context = (self.num_gpu_blocks - 1) * engine.block_size
        else:
            context = self.model.max_position_embeddings
            if given is not None and given > context:
                raise InputError(
                    f"given {given}: at most the model's context length ({context})",
                    where=f"{self.where}.engine.max_model_len",
                )
        longest = min(context, engine.max_num_batched_tokens) if engine.whole_prompts else context
        return given if given is not None else longest

    @property
    def kv_bytes_per_block(self) -> int:
        """Bytes of a KV block over all accelerators of a data-parallel rank; 0 without a model."""
        if not self.has_model:
            return 0
        dtype = self.kv_cache_dtype or self.dtype
        per_token = sum(self.model.kv_bytes_per_token(dtype=dtype, ranks=stage) for stage in self._stages)
        return per_token * self.engine.block_size * self.ranks.tensor // self.ranks.decode_context

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights over all accelerators of a data-parallel rank; 0 without a model."""
        if not self.has_model:
            return 0
        per_device = sum(self.model.weight_bytes(dtype=self.dtype, ranks=stage) for stage in self._stages)
        return per_device * self.ranks.tensor * self.ranks.prefill_context

    @property
    def _stages(self) -> list[Parallelism]:
        return [replace(self.ranks, stage=stage) for stage in range(self.ranks.pipeline)]
