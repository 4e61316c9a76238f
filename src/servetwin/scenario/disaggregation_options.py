"""Options of a deployment in which some pools compute prompts and others outputs."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from servetwin.core.units import GB, NS_PER_US
from servetwin.scenario.base import Microseconds, Options, wrapped
from servetwin.scenario.router_options import RouterOptions

RoleName: TypeAlias = Literal["both", "prefill", "decode"]


class PortOptions(Options):
    """The way of KV between instances: one port per accelerator, each direction by itself."""

    bandwidth_gb_per_s: float | None = Field(
        None, gt=0, le=1e6, description="Of one accelerator's port, per direction; default: 400 Gbit/s (50)."
    )
    latency_us: Microseconds | None = Field(None, description="Of a transfer, from end to end; default: 10.")
    transfer_gb_per_s: float | None = Field(
        None, gt=0, le=1e6, description="Most that one transfer takes; default: nothing but the ports limits it."
    )

    @property
    def bytes_per_s(self) -> float:
        """Bandwidth of one accelerator's port."""
        return (50.0 if self.bandwidth_gb_per_s is None else self.bandwidth_gb_per_s) * GB

    @property
    def latency_ns(self) -> float:
        """Of a transfer, from end to end."""
        return (10.0 if self.latency_us is None else self.latency_us) * NS_PER_US


class KvPortOptions(PortOptions):
    """The way of KV between instances, and what else goes over it."""

    bandwidth_gb_per_s: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Of one accelerator's port, per direction; default: 400 Gbit/s (50), or that of the link which it "
        "is, with shared_with: collectives.",
    )
    fabric_gb_per_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="What the network that joins the ports carries in all (a spine that is narrower than its leaves); "
        "default: whatever the ports do.",
    )
    shared_with: Annotated[tuple[Literal["collectives", "weights"], ...], Field(strict=False)] = Field(
        (),
        description="What of a step crosses the ports, too, slows KV down and is slowed down: `collectives` (those of "
        "the outermost level that joins a replica's accelerators), `weights` (loads of a placement). Default: each has "
        "links of its own.",
    )


class DisaggregationOptions(Options):
    """How requests get from pools with `role: prefill` to pools with `role: decode`."""

    connector: Literal["nixl", "mooncake", "instant"] = Field(
        "nixl",
        description="Software that moves KV: decides the defaults of first_token, handoff_us and message_us. `instant` "
        "moves nothing: KV is there at once.",
    )
    first_token: Literal["prefill", "decode"] | None = Field(
        None,
        description="Which side makes the first token; `decode` computes the prompt's last token again. Default: the "
        "connector's.",
    )
    handoff_us: Microseconds | None = Field(
        None,
        description="From the end of a prefill to the request's arrival at its decode instance: proxy, metadata, "
        "handshake. Default: the connector's.",
    )
    message_us: Microseconds | None = Field(
        None,
        description="Of each further message of a transfer: the keys, or the values, of one layer of one block of KV. "
        "Default: the connector's.",
    )
    granularity: Literal["prompt", "layer"] = Field(
        "prompt",
        description="`prompt`: KV sets out when the whole prompt is computed. `layer`: KV of layers that are computed "
        "travels meanwhile.",
    )
    port: KvPortOptions = Field(KvPortOptions(), description="Links of the instances to the network that joins them.")
    local_prompt_tokens: int = Field(
        0, ge=0, le=2**31 - 1, description="Prompts of at most so many tokens are served whole by a decode instance."
    )
    router: Annotated[RouterOptions, BeforeValidator(wrapped("policy"))] = Field(
        RouterOptions(policy="least_outstanding"), description="Which instance decodes a request."
    )
