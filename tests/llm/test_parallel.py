"""How a model's layers are dealt out to pipeline stages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.llm.parallel import Parallelism, stage_layers


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
    ],
)
def test_impossible_places_are_refused(change: dict[str, int], message: str) -> None:
    """A rank's place must exist."""
    with pytest.raises(InputError, match=message):
        Parallelism(**change)


def test_more_stages_than_layers_are_refused() -> None:
    """A stage without a layer is an error."""
    with pytest.raises(InputError, match="pipeline_parallel_size 3 is more than the model's 2 layers"):
        stage_layers(2, 3, 0)
