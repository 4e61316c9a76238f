"""Options of cost and carbon."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from servetwin.scenario.base import Options

Money: TypeAlias = Annotated[float, Field(ge=0, le=1e12)]
Plan: TypeAlias = Literal["on_demand", "reserved", "spot", "custom", "own"]
Tokens: TypeAlias = Annotated[int, Field(ge=0, le=2**31 - 1)]


class PurchaseOptions(Options):
    """Hardware that is bought."""

    price: Money = Field(description="Of one accelerator with its share of the node.")
    lifetime_years: Annotated[float, Field(gt=0, le=100)] = Field(4.0, description="Written off evenly over this time.")
    used_share: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Part of that time in which it serves.")


class PriceOptions(Options):
    """Prices of one kind of accelerator, each per accelerator and hour."""

    on_demand: Money | None = Field(None, description="Rented by the hour.")
    reserved: Money | None = Field(None, description="Rented for a long term.")
    spot: Money | None = Field(None, description="Rented while nobody else wants it.")
    custom: Money | None = Field(None, description="Your own figure.")
    own: PurchaseOptions | None = Field(None, description="Bought; energy comes on top.")


class ClassOptions(Options):
    """A class of requests; the first that fits counts, what fits none is `other`."""

    name: str = Field(min_length=1, max_length=100, description="Its name.")
    min_prompt_tokens: Tokens = Field(0, description="Shortest prompt.")
    max_prompt_tokens: Tokens | None = Field(None, description="Longest prompt.")
    min_output_tokens: Tokens = Field(0, description="Shortest output.")
    max_output_tokens: Tokens | None = Field(None, description="Longest output.")
    model: str | None = Field(None, description="Requests for this model only.")
    priority: int | None = Field(None, description="Requests of this priority only.")


class CostOptions(Options):
    """What the deployment costs. Accelerators are paid for from time 0 to the end of the run, used or not."""

    plan: Plan = Field("on_demand", description="Which of the prices counts.")
    plans: dict[str, Plan] = Field({}, description="By pool, where it is another.")
    devices: dict[str, PriceOptions] = Field(description="Prices by device.")
    energy_per_kwh: Money | None = Field(None, description="Price of energy, for hardware that is bought.")
    currency: str = Field("USD", min_length=1, max_length=10, description="Only shown.")
    classes: Annotated[tuple[ClassOptions, ...], Field(strict=False)] = Field((), description="Classes of requests.")

    @model_validator(mode="after")
    def _check(self) -> CostOptions:
        names = [item.name for item in self.classes]
        twice = sorted({name for name in names if names.count(name) > 1 or name == "other"})
        if twice:
            raise PydanticCustomError("classes", "the class name {name} is taken", {"name": repr(twice[0])})
        return self


class EmbodiedOptions(Options):
    """Emissions of making one kind of accelerator."""

    kg: Money = Field(description="CO2 equivalent of one accelerator with its share of the node, kilograms.")
    lifetime_years: Annotated[float, Field(gt=0, le=100)] = Field(4.0, description="Written off evenly over this time.")


class CarbonOptions(Options):
    """Emissions; they need `power`."""

    g_per_kwh: Money | Annotated[tuple[Money, ...], Field(strict=False, min_length=1, max_length=1_000_000)] = Field(
        description="Carbon intensity of the grid: one value, or one per hour, begun anew after the last."
    )
    start_hour: Annotated[float, Field(ge=0, le=1e6)] = Field(
        0.0, description="Hour of the series at which the run begins."
    )
    embodied: dict[str, EmbodiedOptions] = Field({}, description="Making the hardware, by device; default: left out.")

    @field_validator("g_per_kwh", mode="before")
    @classmethod
    def _series(cls, value: Any) -> Any:
        """Say which hour of a series is wrong."""
        if isinstance(value, list):
            if not value:
                raise PydanticCustomError("carbon_series", "a series needs at least one hour")
            for hour, item in enumerate(value):
                if isinstance(item, bool) or not isinstance(item, int | float) or not item >= 0:
                    raise PydanticCustomError(
                        "carbon_series",
                        "hour {hour} is {item}, which is no number of at least 0",
                        {"hour": hour, "item": repr(item)},
                    )
        return value
