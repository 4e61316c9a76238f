"""Options of power: accelerators, nodes, site, caps and clocks."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from servetwin.scenario.base import Options, Seconds

Watts: TypeAlias = Annotated[float, Field(ge=0, le=1e9)]
Picojoules: TypeAlias = Annotated[float, Field(ge=0, le=1e9)]
Share: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Count: TypeAlias = Annotated[int, Field(ge=0, le=1_000_000)]


class DevicePowerOptions(Options):
    """Power of one accelerator, where it is known better than in its file."""

    idle_w: Watts | None = Field(None, description="Nothing is loaded, or clocks are down.")
    standby_w: Watts | None = Field(None, description="Clocks are up, no kernel runs.")
    standby_s: Seconds | None = Field(
        None,
        description="How long it stays in standby after a step before it is idle; default: as its class, see docs.",
    )
    kernel_w: Watts | None = Field(None, description="Kernels run, beside what operations and bytes take.")
    limit_w: Watts | None = Field(None, description="The board's limit.")
    joules_per_flop: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Of an operation in bf16; other formats follow."
    )
    joules_per_weight_byte: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Of a byte of weights or activations."
    )
    joules_per_kv_byte: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Of a byte of KV that attention reads."
    )

    @property
    def given(self) -> dict[str, float]:
        """What is given, by name."""
        return {name: value for name, value in self if value is not None}


class HostPowerOptions(Options):
    """The processors of a node."""

    idle_w: Watts = Field(0.0, description="At rest, all processors of a node.")
    per_active_accelerator_w: Watts = Field(0.0, description="More for each accelerator that runs a step.")
    limit_w: Watts | None = Field(None, description="The most that they draw; default: no limit.")

    @model_validator(mode="after")
    def _check(self) -> HostPowerOptions:
        if self.limit_w is not None and self.idle_w > self.limit_w:
            raise PydanticCustomError(
                "host_power", "idle_w ({idle}) is above limit_w ({limit})", {"idle": self.idle_w, "limit": self.limit_w}
            )
        return self


class PartPowerOptions(Options):
    """Equal parts of a node."""

    count: Count = Field(1, description="In one node (of memory: modules).")
    idle_w: Watts = Field(0.0, description="Of each, at rest.")
    pj_per_bit: Picojoules = Field(0.0, description="Energy per bit that passes, picojoules.")


class RestPowerOptions(Options):
    """Equal parts of a node whose traffic takes no energy of its own."""

    count: Count = Field(1, description="In one node.")
    idle_w: Watts = Field(0.0, description="Of each.")


class NodePowerOptions(Options):
    """A node beside its accelerators. Pools have nodes of their own, all alike."""

    accelerators: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="In one node, used or not (those that are not are idle); default: those of the pool, at most 8.",
    )
    base_w: Watts = Field(0.0, description="Board, fans, all that never changes.")
    host: HostPowerOptions = Field(HostPowerOptions(), description="Processors.")
    dram: PartPowerOptions | None = Field(None, description="Host memory, by modules.")
    cxl: PartPowerOptions | None = Field(None, description="CXL memory devices.")
    links: PartPowerOptions | None = Field(None, description="Links between accelerators.")
    switches: PartPowerOptions | None = Field(None, description="Switches between accelerators.")
    nics: PartPowerOptions | None = Field(None, description="Network cards; KV that is handed over passes them.")
    storage: RestPowerOptions | None = Field(None, description="Drives.")
    psu_efficiency: Share = Field(1.0, description="Part of the wall's power that reaches the node's parts.")


class ThermalOptions(Options):
    """An accelerator's temperature; it caps sustained power at `(throttle_c - ambient_c) / resistance_c_per_w`."""

    resistance_c_per_w: Annotated[float, Field(gt=0, le=100)] = Field(description="From chip to air, kelvin per watt.")
    ambient_c: Annotated[float, Field(ge=-50, le=100)] = Field(25.0, description="Of the air at the inlet, Celsius.")
    throttle_c: Annotated[float, Field(ge=0, le=200)] = Field(87.0, description="Where clocks are lowered, Celsius.")
    time_constant_s: Annotated[float, Field(gt=0, le=1e5)] = Field(60.0, description="Pace of warming and cooling.")

    @model_validator(mode="after")
    def _check(self) -> ThermalOptions:
        if self.throttle_c <= self.ambient_c:
            raise PydanticCustomError(
                "thermal", "throttle_c ({high}) must be above ambient_c ({low})",
                {"high": self.throttle_c, "low": self.ambient_c},
            )  # fmt: skip
        return self


class LssPowerOptions(Options):
    """LLMServingSim's power model, as its importer writes it; no other power key is used beside it."""

    nodes: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = Field(
        description="Each node's `power` object, with its pools."
    )
    standby_remaining: Literal["total_gap", "exact"] = Field(
        "total_gap", description="What is left of standby after an idle instance's first poll."
    )
    standby_unit: Literal["s", "ns"] = Field("s", description="Unit of standby_duration: its code's, or its docs'.")
    active_time: Literal["layers", "steps"] = Field(
        "layers", description="Whether accelerators are active in layers only, or in whole steps."
    )
    missing_node: Literal["off", "error"] = Field(
        "off", description="What a node without power does: turns energy off for all, or is an error."
    )


class PowerOptions(Options):
    """Power and energy. They are worked out after the run; only caps and clocks change step times."""

    devices: dict[str, DevicePowerOptions] = Field({}, description="Accelerators by name, where a file says less.")
    node: NodePowerOptions | None = Field(
        None, description="What a node draws beside its accelerators; default: nothing, and a notice."
    )
    pue: Annotated[float, Field(ge=1, le=10)] = Field(1.0, description="Power of the site by power of its computers.")
    cap_w: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="Cap on each accelerator; clocks are as high as it allows, so that steps may take longer."
    )
    clock: Share = Field(1.0, description="Highest clock, as a share of the device's highest.")
    decode_clock: Share | None = Field(
        None, description="Highest clock of steps that compute no prompt; default: that of all steps."
    )
    race_to_idle: bool = Field(False, description="Accelerators go from a step to idle at once, without standby.")
    sleep_after_s: Seconds | None = Field(
        None, description="Put an instance's accelerators to sleep when idle so long; default: never."
    )
    sleep_w: Watts = Field(0.0, description="Power of a sleeping accelerator. Waking takes no time.")
    thermal: ThermalOptions | None = Field(None, description="Thermal throttling; default: none.")
    lss: LssPowerOptions | None = Field(None, description="LLMServingSim's model instead of ours.")

    @model_validator(mode="after")
    def _check(self) -> PowerOptions:
        if self.lss is not None and self.model_fields_set - {"lss"}:
            other = sorted(self.model_fields_set - {"lss"})[0]
            raise PydanticCustomError("lss_power", "{key} has no effect beside lss; leave it out", {"key": other})
        if self.sleep_w and self.sleep_after_s is None:
            raise PydanticCustomError("sleep", "sleep_w ({watts}) needs sleep_after_s", {"watts": self.sleep_w})
        return self
