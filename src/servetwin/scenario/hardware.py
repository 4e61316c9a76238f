"""What one replica of a pool is made of: model, device, link, memory; worked out only when something asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from servetwin.core.errors import InputError
from servetwin.core.units import GB
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.catalogue import load_model
from servetwin.scenario.schema import EngineOptions, HardwareOptions, PoolOptions

if TYPE_CHECKING:
    from servetwin.hardware.base import Device
    from servetwin.memory.kv_capacity import KvCapacity
    from servetwin.network.base import Link


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
    allow_commands
        Whether external commands may run.
    """

    pool: PoolOptions
    model_name: str | None
    folder: Path
    allow_commands: bool = False

    @property
    def where(self) -> str:
        """The pool's path in the scenario."""
        return f"cluster.{self.pool.name}"

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
        model.check_tensor_parallel_size(self.engine.tensor_parallel_size, where=f"{self.where}.engine")
        return model

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

        return load_device(self.hardware.device, relative_to=self.folder, where=f"{self.where}.hardware.device")

    @property
    def notices(self) -> list[str]:
        """What a user should know: a device that nothing looked up, and that does not exist, may be misspelt."""
        if self.pool.hardware is None:
            return []
        try:
            self.device  # noqa: B018
        except InputError as error:
            known = str(error).partition(". Allowed:")[0]
            return [f"{known}. Nothing here needs its data sheet, so the name is only shown"]
        return []

    @cached_property
    def link(self) -> Link | None:
        """The link between the accelerators: as given, else the device's; None for a single one."""
        if self.engine.tensor_parallel_size == 1:
            return None
        from servetwin.network.base import Link

        given = self.hardware.link
        bandwidth = None if given.bandwidth_gb_per_s is None else given.bandwidth_gb_per_s * GB
        if bandwidth is not None and given.latency_ns is not None:
            return Link(bandwidth, given.latency_ns)
        default = self._default_link
        bandwidth = default.bandwidth_bytes_per_s if bandwidth is None else bandwidth
        if given.latency_ns is not None:
            return Link(bandwidth, given.latency_ns)
        return Link(bandwidth, default.latency_ns, default.operation_ns)

    @property
    def _default_link(self) -> Link:
        """The device's link to its neighbours, else the one through its host."""
        from servetwin.network.base import Link
        from servetwin.network.links import link_class

        where = f"{self.where}.hardware.link"
        device = self.device
        if device.scale_up is not None:
            link = link_class(device.scale_up.link_class, where=where).link
            return Link(device.scale_up.bandwidth_bytes_per_s, link.latency_ns, link.operation_ns)
        if device.pcie is not None:
            return link_class(device.pcie.link_class, where=where).link
        raise InputError(f"{device.name} has no known link; give bandwidth_gb_per_s and latency_ns", where=where)

    @cached_property
    def capacity(self) -> KvCapacity:
        """The KV cache that the device's memory has room for."""
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
            self.device,
            tensor_parallel_size=engine.tensor_parallel_size,
            gpu_memory_utilization=engine.gpu_memory_utilization,
            block_size=engine.block_size,
            dtype=self.dtype,
            kv_cache_dtype=self.kv_cache_dtype,
            step=step,
            where=f"{self.where}.engine",
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
        """Bytes of a KV block over all ranks; 0 without a model."""
        if not self.has_model:
            return 0
        ranks = self.engine.tensor_parallel_size
        per_token = self.model.kv_bytes_per_token(ranks, self.kv_cache_dtype or self.dtype)
        return per_token * self.engine.block_size * ranks

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights over all ranks; 0 without a model."""
        ranks = self.engine.tensor_parallel_size
        return self.model.weight_bytes(ranks, self.dtype) * ranks if self.has_model else 0
