"""All contracts on one page: what each part takes and gives, and the registries by which plug-ins are named."""

from servetwin.cluster.base import (
    ClusterView,
    FrontEnd,
    InstanceSpec,
    RequestView,
    Router,
    SimulationOutcome,
    routers,
)
from servetwin.core.registry import Registry
from servetwin.engine.base import (
    EngineSettings,
    InstanceLog,
    Ordering,
    RequestLog,
    Scheduler,
    SchedulerView,
    StepPolicy,
    orderings,
    schedulers,
)
from servetwin.network.base import Collectives, Link, collectives
from servetwin.step.base import StepModel, StepModelBase, StepShape, step_models
from servetwin.workload.base import Contents, Workload, WorkloadSource, workload_sources

__all__ = [
    "ClusterView",
    "Collectives",
    "Contents",
    "EngineSettings",
    "FrontEnd",
    "InstanceLog",
    "InstanceSpec",
    "Link",
    "Ordering",
    "Registry",
    "RequestLog",
    "RequestView",
    "Router",
    "Scheduler",
    "SchedulerView",
    "SimulationOutcome",
    "StepModel",
    "StepModelBase",
    "StepPolicy",
    "StepShape",
    "Workload",
    "WorkloadSource",
    "collectives",
    "orderings",
    "routers",
    "schedulers",
    "step_models",
    "workload_sources",
]
