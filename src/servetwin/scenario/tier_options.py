"""Options of KV tiers below the devices: host memory, CXL memory, local SSDs, remote stores."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from servetwin.scenario.base import Microseconds, Options

Reach: TypeAlias = Literal["instance", "node", "cluster"]


class TierOptions(Options):
    """One tier."""

    kind: Literal["host", "cxl", "ssd", "remote"] = Field(
        description="`host` memory, `cxl` memory, a local `ssd`, or a `remote` store: decides the defaults below."
    )
    name: str | None = Field(None, description="For results and errors; default: its kind.")
    capacity_gb: float | None = Field(
        None, gt=0, le=1e9, description="Capacity in 10^9 bytes, of each store; default: as much as comes."
    )
    bandwidth_gb_per_s: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Of reads, and as much of writes, 10^9 bytes per second. Default: `host` as the accelerators' PCIe "
        "links together (25 each where unknown), `cxl` 30, `ssd` 7, `remote` 12.5.",
    )
    latency_us: Microseconds | None = Field(
        None, description="Of each read or write. Default: `host` 10, `cxl` 10, `ssd` 100, `remote` 200."
    )
    lookup_us: Microseconds = Field(0.0, description="To ask whether it holds chunks of a request.")
    eviction: str = Field("lru", description="Which chunk a full tier gives up (`servetwin list evictions`).")
    shared: Reach = Field(
        "instance",
        description="Who has one store in common: nobody (`instance`), the instances of a `node`, or of the `cluster` "
        "(of the pool, where the pool names its tiers).",
    )
    queue: Reach | None = Field(
        None, description="Whose reads wait for each other; default: those of the instances that share the store."
    )
    repeat_reads: bool = Field(
        False, description="Whether every accelerator reads the whole chunk, one after the other (LLMServingSim)."
    )


class TiersOptions(Options):
    """KV tiers below the devices, and how instances use them."""

    levels: Annotated[tuple[TierOptions, ...], Field(strict=False)] = Field(description="The tiers, the fastest first.")
    chunk_tokens: int = Field(
        256,
        ge=1,
        le=2**20,
        description="Tokens that are kept and moved together; rounded down to whole KV blocks.",
    )
    write: Literal["through", "back"] = Field(
        "through", description="`through`: to every tier; `back`: to the first, and on when that gives a chunk up."
    )
    saves: Literal["prompt", "all"] = Field(
        "prompt",
        description="Which complete chunks are written: of `prompt`s (LMCache), or of generated tokens, too (`all`).",
    )
    load: Literal["blocking", "async"] = Field(
        "blocking",
        description="`blocking`: the step that lets a request in waits for its recall (LMCache); `async`: the request "
        "waits with its blocks, and steps go on without it (vLLM's OffloadingConnector).",
    )
    instant_writes: bool = Field(
        False, description="Whether writes take no time (LLMServingSim). They never hold a step up."
    )
    promote: bool = Field(True, description="Whether what was recalled is held by the faster tiers, too.")
    preempted: Literal["recompute", "swap"] = Field(
        "recompute",
        description="What becomes of a preempted request's KV: lost (vLLM V1), or `swap`: its whole chunks are written "
        "to the first tier, the step waits for that, and they are recalled when it comes back.",
    )
    instances_per_node: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="For `node`: so many consecutive instances; default: as many as 8 accelerators have room for.",
    )

    @model_validator(mode="after")
    def _check(self) -> TiersOptions:
        if not self.levels:
            raise PydanticCustomError("tiers", "at least one tier is needed; leave tiers out for none")
        names = [tier.name or tier.kind for tier in self.levels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PydanticCustomError("tiers", "two tiers have the name {name}; give names", {"name": repr(twice[0])})
        return self


def _levels(value: Any) -> Any:
    return {"levels": value} if isinstance(value, list | tuple) else value


TiersField: TypeAlias = Annotated[TiersOptions, BeforeValidator(_levels)]
"""A list of tiers, or a mapping with ``levels``."""
