"""Random small scenarios in which pipelines compute prompts chunk by chunk, and hand them over to others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from servetwin.cluster.base import InstanceSpec
from servetwin.engine.base import EngineSettings, schedulers
from servetwin.engine.dynamic_chunking import DynamicChunking
from servetwin.testing.random_disaggregation import random_disaggregated_scenario
from servetwin.testing.random_groups import random_plan
from servetwin.testing.random_scenarios import RandomScenario


def random_chunk_pipeline_scenario(seed: int) -> RandomScenario:
    """Return the random disaggregated scenario number ``seed`` with pipelines wherever prompts alone are computed.

    Most of its pipelines and groups, in any role, have chunks that shrink.
    """
    rng = np.random.default_rng([seed, 5])
    return random_disaggregated_scenario(seed, lambda specs, longest: _with_pipelines(rng, specs, longest))


def _with_pipelines(rng: np.random.Generator, specs: list[InstanceSpec], longest: int) -> list[InstanceSpec]:
    instances = [_pipeline(rng, spec, longest) for spec in specs]
    chunking = {spec.group: _chunking(rng, spec.settings) for spec in instances}
    return [
        replace(spec, settings=replace(spec.settings, dynamic_chunking=chunking[spec.group]))
        if spec.settings.enable_chunked_prefill and rng.random() < 0.8
        else spec
        for spec in instances
    ]


def _pipeline(rng: np.random.Generator, spec: InstanceSpec, longest: int) -> InstanceSpec:
    """Return a pipeline with small chunks in place of a plain instance that computes prompts."""
    if spec.role != "prefill" or spec.plan is not None:
        return spec
    settings = replace(
        spec.settings,
        enable_chunked_prefill=True,
        overlap_chunks=bool(rng.random() < 0.8),
        max_num_batched_tokens=int(rng.choice([2, 4, 8, 16])),
        max_model_len=longest,
    )
    plan = random_plan(rng, 1, int(rng.choice([2, 3, 4])))
    return replace(spec, settings=settings, scheduler=schedulers.get("vllm")(), step_model=None, plan=plan)


def _chunking(rng: np.random.Generator, settings: EngineSettings) -> DynamicChunking:
    """Return chunks that shrink fast or slowly, to a quarter of the first one at the earliest."""
    return DynamicChunking(
        quadratic_ns=float(rng.choice([0.01, 0.3, 5.0])),
        linear_ns=float(rng.integers(0, 4)),
        base_tokens=settings.max_num_batched_tokens,
        smooth_factor=float(rng.choice([0.3, 0.75, 1.0])),
        alignment_tokens=int(rng.choice([1, 1, 2])),
    )
