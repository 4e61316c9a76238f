"""How a model's layers are dealt out to pipeline stages."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.llm import load_model
from servetwin.llm.checks import check_parallelism
from servetwin.llm.parallel import Parallelism, balanced_partition, stage_layers


@given(st.integers(1, 200), st.data())
def test_stages_partition_the_layers(layers: int, data: st.DataObject) -> None:
    """Each layer is in exactly one stage, in order, and no stage has more than one layer more than another."""
    stages = data.draw(st.integers(1, layers))
    parts = [stage_layers(layers, stages, stage) for stage in range(stages)]
    assert [index for part in parts for index in part] == list(range(layers))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_last_stage_gets_no_extra_layer() -> None:
    """As in vLLM, whose last stage also has the LM head: 61 layers on 4 stages are 15, 15, 16 and 15."""
    assert [len(stage_layers(61, 4, stage)) for stage in range(4)] == [15, 15, 16, 15]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensor": 0}, "tensor parallelism must be at least 1, got 0"),
        ({"expert": -1}, "expert parallelism must be at least 1"),
        ({"pipeline": 2, "stage": 2}, "stage must be from 0 to 1, got 2"),
        ({"tensor": 4, "decode_context": 3}, "decode_context parallelism 3 must divide tensor parallelism 4"),
        ({"pipeline": 2, "partition": (4,)}, "one number of layers, at least 1, for each of 2 stages, got 4"),
        ({"pipeline": 2, "partition": (4, 0)}, "one number of layers, at least 1, for each of 2 stages, got 4,0"),
    ],
)
def test_impossible_places_are_refused(change: dict[str, Any], message: str) -> None:
    """A rank's place must exist."""
    with pytest.raises(InputError, match=message):
        Parallelism(**change)


def test_more_stages_than_layers_are_refused() -> None:
    """A stage without a layer is an error."""
    with pytest.raises(InputError, match="pipeline_parallel_size 3 is more than the model's 2 layers"):
        stage_layers(2, 3, 0)


def test_a_given_partition_is_taken() -> None:
    """Its stages have its numbers of layers; one that does not add up to the model is an error."""
    assert [stage_layers(10, 3, stage, (5, 3, 2)) for stage in range(3)] == [range(5), range(5, 8), range(8, 10)]
    with pytest.raises(InputError, match="the partition 5,3,3 has 11 layers, the model has 10"):
        stage_layers(10, 3, 0, (5, 3, 3))


@given(st.data())
def test_the_balanced_partition_is_the_best_of_all(data: st.DataObject) -> None:
    """No other cut has a slowest stage that takes less time, on unequal devices and with unequal layers."""
    layers = data.draw(st.integers(1, 7))
    stages = data.draw(st.integers(1, min(4, layers)))
    times = st.floats(0.1, 10)
    costs = [data.draw(st.lists(times, min_size=layers, max_size=layers)) for _ in range(stages)]
    extra = data.draw(st.lists(times, min_size=stages, max_size=stages))

    def slowest(sizes: tuple[int, ...]) -> float:
        ends = [sum(sizes[: stage + 1]) for stage in range(stages)]
        return max(
            sum(cost[end - size : end]) + more for cost, more, size, end in zip(costs, extra, sizes, ends, strict=True)
        )

    found = balanced_partition(costs, extra)
    assert sum(found) == layers
    assert min(found) >= 1
    for cuts in combinations(range(1, layers), stages - 1):
        edges = (0, *cuts, layers)
        other = tuple(end - start for start, end in pairwise(edges))
        assert slowest(found) <= slowest(other) * (1 + 1e-12)


def test_a_device_of_twice_the_speed_takes_twice_the_layers() -> None:
    """The slower of two devices gets a third."""
    assert balanced_partition([[1.0] * 12, [2.0] * 12], [0.0, 0.0]) == (8, 4)
    with pytest.raises(InputError, match="3 pipeline stages are more than the model's 2 layers"):
        balanced_partition([[1.0] * 2] * 3, [0.0] * 3)


@pytest.mark.parametrize(
    ("name", "ranks", "message"),
    [
        ("meta-llama/Llama-3.1-8B", Parallelism(3), "tensor_parallel_size 3 does not divide"),
        ("meta-llama/Llama-3.1-8B", Parallelism(pipeline=33), "33 is more than the model's 32 layers"),
        ("meta-llama/Llama-3.1-8B", Parallelism(2, expert=2), "Llama-3.1-8B: .* has no experts; leave"),
        ("meta-llama/Llama-3.1-8B", Parallelism(16, decode_context=4), "8 KV heads on 16 .* are 2; allowed: 1, 2"),
        ("deepseek-ai/DeepSeek-V3", Parallelism(3, decode_context=3), "tensor_parallel_size 3 does not divide"),
        ("Qwen/Qwen3-30B-A3B", Parallelism(2, expert=3), "3 does not divide the 2 ranks of a stage; allowed: 1, 2"),
        ("Qwen/Qwen3-30B-A3B", Parallelism(expert=256, data=256), "256 accelerators cannot share 128 experts"),
        ("Qwen/Qwen3-30B-A3B", Parallelism(data=512), "does not divide the experts' intermediate size 768"),
        ("Qwen/Qwen3-30B-A3B-FP8", Parallelism(data=4), "768, quantised in blocks of 128; allowed: 1, 2, 3, 6, or"),
        ("deepseek-ai/DeepSeek-V3", Parallelism(32, expert=64, data=2), "18432, quantised in blocks of 128; allow"),
        ("Qwen/Qwen2.5-0.5B-Instruct", Parallelism(7, prefill_context=2), "14 .* and 2 KV heads .*: 1, 2, 14$"),
        ("Qwen/Qwen3-30B-A3B", Parallelism(prefill_context=2, data=2), "does not go with data_parallel_size"),
    ],
)
def test_degrees_that_do_not_fit_the_model_are_refused(name: str, ranks: Parallelism, message: str) -> None:
    """One error each, with the numbers and what would be valid."""
    with pytest.raises(InputError, match=message):
        check_parallelism(load_model(name), ranks)


def test_degrees_that_fit_the_model_pass() -> None:
    """Experts over tensor and data ranks, uneven ones too; compressed contexts over all tensor ranks."""
    check_parallelism(load_model("Qwen/Qwen3-30B-A3B"), Parallelism(2, 4, expert=6, data=3))
    check_parallelism(load_model("deepseek-ai/DeepSeek-V3"), Parallelism(8, decode_context=8, expert=16, data=2))
