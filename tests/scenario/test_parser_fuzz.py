"""The parser of scenarios on junk: nothing but InputError comes out."""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.scenario.build import build
from servetwin.scenario.load import load_scenario

VALID: dict[str, Any] = {
    "seed": 1,
    "model": "meta-llama/Llama-3.1-8B",
    "cluster": [
        {
            "name": "chat",
            "replicas": 2,
            "hardware": {"device": "H100-SXM", "count": 1, "link": {"bandwidth_gb_per_s": 16.0}},
            "engine": {"kind": "vllm", "max_num_seqs": 8, "block_size": 16, "num_gpu_blocks_override": 50},
            "step": {"model": "roofline", "host": {"per_step_us": 5.0}, "efficiency": {"matrix_us": 1.0}},
        }
    ],
    "router": {"policy": "prefix_aware", "staleness_s": 0.0, "imbalance": 4},
    "workload": {
        "kind": "synthetic",
        "requests": 5,
        "arrivals": {"kind": "gamma", "rate_per_s": 8, "cv": 2.0},
        "prompt_tokens": {"kind": "lognormal", "mean": 22, "sigma": 1.0},
        "output_tokens": 3,
    },
    "slo": {"ttft_s": 0.5},
    "output": {"interval_s": 1.0},
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["chat", "roofline", "fixed", "H100-SXM", "unlimited", "poisson", "../x", "/"])
)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in nested mappings and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return (
        [prefix, *(path for key, item in items for path in paths(item, (*prefix, key)))]
        if prefix
        else [path for key, item in items for path in paths(item, (key,))]
    )


def check(data: Any) -> None:
    """Load and build; an InputError is a fine answer, any other exception fails the test."""
    with suppress(InputError):
        build(load_scenario(data))


def test_the_scenario_that_is_mutated_is_valid() -> None:
    """What the other tests start from is built as it is."""
    assert [spec.name for spec in build(load_scenario(VALID)).instances] == ["chat-0", "chat-1"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(paths(VALID)), junk)
def test_one_value_replaced_by_junk(path: tuple[Any, ...], value: Any) -> None:
    """Whatever stands in one place of a scenario, it is built or refused with an InputError."""
    data = deepcopy(VALID)
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    check(data)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(paths(VALID)), st.text(max_size=8), scalars)
def test_one_key_added(path: tuple[Any, ...], key: str, value: Any) -> None:
    """A key that is added anywhere is an InputError unless it is known there."""
    data = deepcopy(VALID)
    target = data
    for part in path:
        target = target[part]
    if isinstance(target, dict):
        target.setdefault(key, value)
        check(data)


@settings(max_examples=60, deadline=None)
@given(junk)
def test_junk_alone(value: Any) -> None:
    """What is no scenario at all is an InputError."""
    check(value if not isinstance(value, str) else {"x": value})
