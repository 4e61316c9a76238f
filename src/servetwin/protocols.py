"""All contracts on one page: what each part takes and gives, and the registries by which plug-ins are named."""

from servetwin.cluster.base import (
    ClusterView,
    Disaggregation,
    FrontEnd,
    InstanceSpec,
    LinkRecord,
    RequestView,
    Router,
    SimulationOutcome,
    Transfers,
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
from servetwin.memory.tiers import Eviction, evictions
from servetwin.network.base import Collectives, Link, collectives
from servetwin.step.base import StepModel, StepModelBase, StepShape, step_models
from servetwin.step.experts.base import (
    ExpertLoad,
    ExpertPlacement,
    ExpertRouting,
    LayerLoads,
    RebalancingPlacement,
    expert_placements,
    expert_routings,
)
from servetwin.step.plans.base import ExecutionPlan, OverlapModel, RankModel, StageTime, execution_plans
from servetwin.workload.base import Contents, Workload, WorkloadSource, workload_sources

__all__ = [
    "ClusterView",
    "Collectives",
    "Contents",
    "Disaggregation",
    "EngineSettings",
    "Eviction",
    "ExecutionPlan",
    "ExpertLoad",
    "ExpertPlacement",
    "ExpertRouting",
    "FrontEnd",
    "InstanceLog",
    "InstanceSpec",
    "LayerLoads",
    "Link",
    "LinkRecord",
    "Ordering",
    "OverlapModel",
    "RankModel",
    "RebalancingPlacement",
    "Registry",
    "RequestLog",
    "RequestView",
    "Router",
    "Scheduler",
    "SchedulerView",
    "SimulationOutcome",
    "StageTime",
    "StepModel",
    "StepModelBase",
    "StepPolicy",
    "StepShape",
    "Transfers",
    "Workload",
    "WorkloadSource",
    "collectives",
    "evictions",
    "execution_plans",
    "expert_placements",
    "expert_routings",
    "orderings",
    "routers",
    "schedulers",
    "step_models",
    "workload_sources",
]
