"""Keys of a scenario about memory beside the accelerators, what lies there, and how a model gets in."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from servetwin.scenario.base import Options, Seconds, Tokens, wrapped

Gigabytes: TypeAlias = Annotated[float, Field(gt=0, le=1e9)]
Rate: TypeAlias = Annotated[float, Field(gt=0, le=1e9)]


class MemoryOptions(Options):
    """A memory device of a node, shared by the accelerators of a replica: host memory, CXL, a peer's."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] = Field(
        description="Name, as placements call it."
    )
    capacity_gb: Gigabytes = Field(description="What it holds, 10^9 bytes.")
    bandwidth_gb_per_s: Rate = Field(description="What it delivers to all accelerators together.")
    latency_ns: float = Field(0.0, ge=0, le=1e9, description="Of one load.")
    per_rank_gb_per_s: Rate | None = Field(
        None, description="What one accelerator's own link to it carries; default: all that it delivers."
    )
    shared: bool = Field(True, description="One device for all accelerators of a replica; false: one for each.")
    queue: bool = Field(
        True, description="Loads are served one after the other; false: all at once, each at the full rate."
    )


class ExpertPlacementOptions(Options):
    """Routed experts that are loaded when a step activates them."""

    device: str = Field(description="Memory device on which they lie.")
    cached: int = Field(
        0, ge=0, le=65_536, description="Experts of each layer that each rank keeps on the accelerator."
    )
    eviction: Literal["lru", "lfu"] = Field(
        "lru", description="Which ones it keeps: the last used, or the most often used."
    )


class KvPlacementOptions(Options):
    """A part of every request's keys and values, which each step reads over the link, layer by layer."""

    device: str = Field(description="Memory device on which they lie.")
    share: float = Field(gt=0, lt=1, description="Part of the tokens.")


class PlacementOptions(Options):
    """Which weights lie outside the accelerator, see `docs/offload.md`."""

    kind: Literal["given", "auto"] = Field(
        "given",
        description="`auto`: layers, experts or KV are chosen so that a step takes least time and memory suffices.",
    )
    layers: dict[str, int | str] = Field(
        {}, description='Layers by device: a number, evenly spread, or which (`{host: 8}`, `{host: "0-3,7"}`).'
    )
    operators: dict[str, str] = Field(
        {},
        description="Device of an operator in all layers, before `layers` (`{lm_head: cxl0}`; `accelerator`: none).",
    )
    experts: ExpertPlacementOptions | None = Field(None, description="Routed experts that are loaded on demand.")
    kv: KvPlacementOptions | None = Field(None, description="Keys and values that are read over the link.")
    prefetch: int = Field(
        2,
        ge=0,
        le=1024,
        description="Buffers into which layers are loaded ahead (vLLM's `offload_prefetch_step`, whose default is 1). "
        "2: one travels while one computes; 0: loaded when needed.",
    )
    access: Literal["copy", "direct"] = Field(
        "copy",
        description="`copy`: into the accelerator's memory, and read from there (vLLM's `prefetch`); `direct`: kernels "
        "read over the link (vLLM's `uva`).",
    )
    at_start: bool = Field(False, description="All loads of a step are issued at its start (LLMServingSim).")
    frees_memory: bool = Field(True, description="What leaves gives room to KV (LLMServingSim: false).")
    decodes: Tokens = Field(64, description="With `auto`: decodes of the step that is to be fast, and fit.")
    context_tokens: Tokens = Field(1024, description="With `auto`: the context of each.")

    @model_validator(mode="after")
    def _check(self) -> PlacementOptions:
        if self.kind == "auto" and (self.layers or self.operators or self.experts or self.kv):
            raise PydanticCustomError(
                "auto", "with kind: auto, layers, operators, experts and kv are chosen: leave them out"
            )
        if self.at_start and self.access == "direct":
            raise PydanticCustomError("at_start", "at_start issues copies; access: direct makes none")
        if self.kv is not None and (self.at_start or self.access == "direct"):
            raise PydanticCustomError("kv", "kv elsewhere is copied ahead: it needs access: copy and no at_start")
        return self


PlacementField: TypeAlias = Annotated[PlacementOptions, BeforeValidator(wrapped("kind"))]


class ColdStartOptions(Options):
    """A model that is loaded from storage before its instances serve anything."""

    storage_gb_per_s: Rate = Field(description="What a replica's storage delivers, to all its accelerators together.")
    link_gb_per_s: Rate | None = Field(
        None, description="What each accelerator's link to its host carries; default: its PCIe link."
    )
    other_s: Seconds = Field(0.0, description="Everything else before the first step: processes, compiling, graphs.")
    replicas: int | None = Field(None, ge=1, description="So many begin cold, the last ones; default: all.")
