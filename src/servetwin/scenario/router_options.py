"""Options of a router."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import Field

from servetwin.scenario.base import AS_NAME, PluginOptions, Seconds, implementation

RouterName: TypeAlias = Annotated[Any, implementation("choose", "router"), AS_NAME]


class RouterOptions(PluginOptions):
    """Which instance serves a request. Further keys are options of the policy (see below)."""

    policy: RouterName = Field("round_robin", description="Name of a policy (`servetwin list routers`).")
    staleness_s: Seconds = Field(
        0.0, description="Age that the router's view of the instances may reach; 0: always fresh."
    )
