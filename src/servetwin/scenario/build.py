"""Wiring: a scenario becomes requests, instances and a router."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from servetwin.cluster import routers as _built_in_routers  # noqa: F401  (registers them)
from servetwin.cluster.base import Disaggregation, EncoderPool, FrontEnd, InstanceSpec, Router, routers
from servetwin.cluster.plugins import check_plugins
from servetwin.core.errors import InputError
from servetwin.core.units import seconds_to_ns, us_to_ns
from servetwin.engine import orderings as _built_in_orderings  # noqa: F401
from servetwin.engine import schedulers as _built_in_schedulers  # noqa: F401
from servetwin.engine.admission import longest_request
from servetwin.engine.base import NOT_YET, EngineSettings, Ordering, Scheduler, orderings, schedulers
from servetwin.metrics.options import MetricOptions
from servetwin.scenario.accounting import Accounting, build_accounting
from servetwin.scenario.auto_placement import with_placement
from servetwin.scenario.cold_start import ready_ns
from servetwin.scenario.disaggregation import make_disaggregation
from servetwin.scenario.disaggregation_options import DisaggregationOptions
from servetwin.scenario.dynamic_chunking import build_dynamic_chunking
from servetwin.scenario.encoders import build_encoders, encoder_notices, encoder_ports
from servetwin.scenario.factories import make
from servetwin.scenario.hardware import Replica
from servetwin.scenario.link_sharing import link_times, sharing_notices
from servetwin.scenario.load import LoadedScenario
from servetwin.scenario.plans import build_plan, with_partition
from servetwin.scenario.router_options import RouterOptions
from servetwin.scenario.schema import Scenario
from servetwin.scenario.step_models import build_step_model
from servetwin.scenario.tiers import with_tiers
from servetwin.scenario.workload_field import build_workload
from servetwin.step.link_share import LinkTime
from servetwin.step.plans.base import ExecutionPlan
from servetwin.workload.base import Workload


@dataclass(frozen=True, slots=True)
class Deployment:
    """A scenario, ready to be simulated.

    Attributes
    ----------
    replicas
        One per pool: what its instances are made of.
    instances
        All instances, pool by pool.
    shared_links
        What the steps of each take of its port; empty where they have links of their own.
    """

    loaded: LoadedScenario
    workload: Workload
    replicas: tuple[Replica, ...]
    instances: tuple[InstanceSpec, ...]
    router: Router
    staleness_ns: int
    front_end: FrontEnd | None
    metric_options: MetricOptions
    encoders: EncoderPool | None = None
    accounting: Accounting = field(default_factory=Accounting)
    shared_links: Sequence[LinkTime | None] = ()

    @property
    def scenario(self) -> Scenario:
        """The scenario."""
        return self.loaded.scenario

    @property
    def disaggregation_options(self) -> DisaggregationOptions | None:
        """The scenario's, or defaults; None where nothing is apart."""
        if all(pool.role == "both" for pool in self.scenario.cluster):
            return None
        return self.scenario.disaggregation or DisaggregationOptions()

    def disaggregation(self) -> Disaggregation | None:
        """Return how requests get from prefill to decode, made anew for a run; None where nothing is apart."""
        scenario, options = self.scenario, self.disaggregation_options
        if options is None:
            return None
        return make_disaggregation(
            options,
            make_router(options.router, scenario.seed, "disaggregation.router"),
            self.replicas,
            self.instances,
            seconds_to_ns(scenario.output.interval_s),
            encoder_ports(self.encoders, options.port) if self.encoders else (),
            self.shared_links,
        )

    @property
    def rejections(self) -> list[str]:
        """What can be said, before anything runs, of requests that no instance will serve."""
        longest = max(longest_request(spec.settings) for spec in self.instances)
        too_long = int(np.count_nonzero(self.workload.prompt_tokens + self.workload.output_tokens > longest))
        served = {spec.model for spec in self.instances}
        asked = Counter(self.workload.model or () if None not in served else ())
        said = (
            [f"requests of more than {longest:,} tokens, which no instance can serve: {too_long:,}"] if too_long else []
        )
        for model, count in sorted(
            (str(model), count) for model, count in asked.items() if model not in served | {None}
        ):
            said.append(f"requests for the model {model!r}, which no pool serves: {count:,}")
        return said

    @property
    def notices(self) -> list[str]:
        """What a user should know before anything runs, each said once."""
        said = [*self.workload.notices, *(notice for replica in self.replicas for notice in replica.notices)]
        for spec in self.instances:
            said += spec.timing.notices
        said += sharing_notices(self.shared_links, self.instances)
        said += [*self.accounting.notices, *encoder_notices(self.scenario, self.workload)]
        return list(dict.fromkeys(said))


def build(loaded: LoadedScenario) -> Deployment:
    """Resolve a scenario: read its files, find its implementations, work out its memory.

    Raises
    ------
    InputError
        For anything in it that does not exist or does not fit.
    """
    try:
        return _build(loaded)
    except InputError as error:
        raise loaded.located(error) from None


def _build(loaded: LoadedScenario) -> Deployment:
    scenario = loaded.scenario
    replicas = tuple(
        with_placement(
            with_partition(
                Replica(
                    pool,
                    pool.model or scenario.model,
                    loaded.folder,
                    scenario.seed,
                    allow_commands=loaded.allow_commands,
                )
            )
        )
        for pool in scenario.cluster
    )
    workload = _call_models_by_name(build_workload(scenario.workload, scenario.seed, loaded.folder), replicas)
    specs = with_tiers(_instances(replicas), replicas, scenario.tiers)
    encoders = build_encoders(scenario, replicas, specs, workload)
    accounting, instances = build_accounting(scenario, replicas, specs, encoders)
    deployment = Deployment(
        loaded=loaded,
        replicas=replicas,
        instances=instances,
        workload=workload,
        router=_router(scenario),
        staleness_ns=seconds_to_ns(scenario.router.staleness_s),
        front_end=_front_end(scenario),
        metric_options=MetricOptions(
            interval_s=scenario.output.interval_s, warmup_s=scenario.output.warmup_s, slo=scenario.slo.limits
        ),
        encoders=encoders,
        accounting=accounting,
        shared_links=_shared_links(scenario, replicas, specs),
    )
    check_plugins(deployment.instances, deployment.router, deployment.disaggregation())
    return deployment


def _shared_links(
    scenario: Scenario, replicas: Sequence[Replica], specs: Sequence[InstanceSpec]
) -> Sequence[LinkTime | None]:
    options = scenario.disaggregation
    if options is None or options.connector == "instant":
        return ()
    return link_times(options.port, replicas, specs, "disaggregation.port")


def _call_models_by_name(workload: Workload, replicas: Sequence[Replica]) -> Workload:
    """Put a model's own name where requests call it as its pool does (by the path of its ``config.json``)."""
    if workload.model is None:
        return workload
    names = {replica.model_name: replica.model.name for replica in replicas if replica.has_model}
    return replace(workload, model=[names.get(model, model) for model in workload.model])


def _instances(replicas: Sequence[Replica]) -> tuple[InstanceSpec, ...]:
    """Return the instances of all pools; groups are numbered through."""
    instances: list[InstanceSpec] = []
    groups = 0
    for replica in replicas:
        instances += build_instances(replica, groups)
        groups += replica.pool.replicas
    return tuple(instances)


def build_instances(replica: Replica, first_group: int = 0) -> list[InstanceSpec]:
    """Return the instances of one pool, replica by replica; they share one step model, or one plan.

    Parameters
    ----------
    first_group
        Number of the lockstep group of the first replica, where its data-parallel ranks are one.
    """
    engine, pool = replica.engine, replica.pool
    plan = build_plan(replica)
    first = InstanceSpec(
        name=f"{pool.name}-0",
        pool=pool.name,
        device=replica.device_name,
        model=replica.model.name if replica.has_model else None,
        settings=_settings(replica, plan),
        scheduler=_scheduler(engine.kind, f"{replica.where}.engine.kind"),
        ordering=_ordering(engine.scheduling_policy, f"{replica.where}.engine.scheduling_policy"),
        step_model=build_step_model(replica) if plan is None else None,
        plan=plan,
        kv_bytes_per_block=replica.kv_bytes_per_block,
        weight_bytes=replica.weight_bytes,
        role=pool.role,
    )
    several = engine.data_parallel_size > 1
    in_lockstep = plan is not None and plan.num_ranks > 1
    return [
        replace(
            first,
            name=f"{pool.name}-{number}-dp{rank}" if several else f"{pool.name}-{number}",
            settings=replace(first.settings, ready_ns=ready_ns(replica, number)),
            group=first_group + number if in_lockstep else NOT_YET,
        )
        for number in range(pool.replicas)
        for rank in range(engine.data_parallel_size)
    ]


def _settings(replica: Replica, plan: ExecutionPlan | None) -> EngineSettings:
    engine = replica.engine
    usable = replica.num_gpu_blocks - 1  # vLLM keeps one as its null block
    if usable < 1:
        raise InputError(
            f"{replica.num_gpu_blocks} KV block fits, and vLLM keeps one for itself", where=f"{replica.where}.engine"
        )
    return EngineSettings(
        num_blocks=usable,
        max_model_len=replica.max_model_len,
        max_num_seqs=engine.num_sequences,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        block_size=engine.block_size,
        enable_chunked_prefill=engine.enable_chunked_prefill,
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        scheduler_reserve_full_isl=engine.scheduler_reserve_full_isl,
        enable_prefix_caching=engine.enable_prefix_caching,
        idle_poll_ns=us_to_ns(engine.idle_poll_us),
        async_scheduling=engine.async_scheduling,
        overlap_chunks=engine.pipeline_overlaps_chunks,
        dynamic_chunking=build_dynamic_chunking(replica, plan),
    )


def _scheduler(kind: Any, where: str) -> Scheduler:
    if not isinstance(kind, str):
        given: Scheduler = kind
        return given
    return schedulers.get(kind, where=where)()


def _ordering(policy: Any, where: str) -> Ordering:
    if not isinstance(policy, str):
        given: Ordering = policy
        return given
    return orderings.get(policy, where=where)()


def _router(scenario: Scenario) -> Router:
    return make_router(scenario.router, scenario.seed, "router")


def make_router(options: RouterOptions, seed: int, where: str) -> Router:
    """Return a router from its name and options."""
    if not isinstance(options.policy, str):
        given: Router = options.policy
        return given
    factory = routers.get(options.policy, where=f"{where}.policy")
    return make(factory, options.extra, {"seed": lambda: seed}, where, type(options).model_fields)


def _front_end(scenario: Scenario) -> FrontEnd | None:
    options = scenario.front_end
    if options is None:
        return None
    return FrontEnd(request_ns=us_to_ns(options.request_us), response_ns=us_to_ns(options.response_us))
