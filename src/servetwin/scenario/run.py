"""``servetwin.simulate``: a scenario in, a result out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from servetwin.cluster.simulation import simulate as simulate_cluster
from servetwin.scenario.build import Deployment, build
from servetwin.scenario.load import LoadedScenario, load_scenario
from servetwin.scenario.resolved import resolved_yaml, scenario_hash
from servetwin.scenario.result import Result, RunInfo
from servetwin.scenario.schema import Scenario


def simulate(
    scenario: str | Path | Mapping[str, Any] | Scenario | LoadedScenario | Deployment,
    *,
    edits: Mapping[str, Any] | None = None,
    seed: int | None = None,
    folder: str | Path | None = None,
    check_invariants: bool = False,
    progress: Callable[[int], None] | None = None,
    allow_commands: bool = False,
) -> Result:
    """Simulate a scenario to its end.

    Parameters
    ----------
    scenario
        Path of a YAML file, or the same as a mapping (where routers, schedulers, step models and workloads may stand
        as objects instead of names), or a `Scenario`.
    edits
        Values by dotted path: ``{"cluster.chat.replicas": 4}``.
    seed
        Replaces the scenario's seed.
    folder
        Where relative paths count from; default: the file's folder, or the current one.
    check_invariants
        Check the simulation's own state after every event (slow).
    progress
        Called now and then with the number of requests that have arrived.
    allow_commands
        Whether external commands that the scenario or its devices name may run.

    Raises
    ------
    InputError
        If something in the scenario is wrong.
    StuckError
        If requests are left that nothing can ever serve.
    """
    if isinstance(scenario, Deployment):
        deployment = scenario
    else:
        deployment = build(
            load_scenario(scenario, edits=edits, seed=seed, folder=folder, allow_commands=allow_commands)
        )
    started = time.perf_counter()
    outcome = simulate_cluster(
        deployment.workload,
        deployment.instances,
        deployment.router,
        staleness_ns=deployment.staleness_ns,
        front_end=deployment.front_end,
        disaggregation=deployment.disaggregation(),
        encoders=deployment.encoders,
        check_invariants=check_invariants,
        progress=progress,
    )
    outcome.notices += [notice for notice in deployment.notices if notice not in outcome.notices]
    info = _info(deployment, time.perf_counter() - started)
    return Result(outcome, deployment.metric_options, info, deployment.accounting)


def _info(deployment: Deployment, wall_time_s: float) -> RunInfo:
    loaded = deployment.loaded
    pools = ", ".join(
        f"{replica.pool.replicas} x {replica.model_name or 'instance'}"
        + (f" on {replica.device_name}" if replica.device_name else "")
        for replica in deployment.replicas
    )
    return RunInfo(
        seed=loaded.scenario.seed,
        scenario_hash=scenario_hash(loaded),
        resolved_yaml=resolved_yaml(deployment),
        wall_time_s=wall_time_s,
        title=loaded.name,
        subtitle=pools,
        scenario_folder=str(loaded.folder.resolve()),
    )
