"""What a rank holds of a model: weights and KV under tensor parallelism."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.llm import load_model, model_names

models = st.sampled_from(model_names()).map(load_model)


def test_one_rank_holds_the_whole_model() -> None:
    """With a vocabulary that needs no padding, one rank's weights are the parameters."""
    model = load_model("meta-llama/Llama-3.1-8B")
    assert model.weight_bytes(1) == 2 * 8_030_261_248
    assert model.weight_bytes(1, "float32") == 4 * 8_030_261_248


def test_two_ranks_hold_half_the_matrices_and_all_norms() -> None:
    """Under tensor parallelism matrices are divided and norms are not."""
    model = load_model("meta-llama/Llama-3.1-8B")
    norms = 65 * 4096
    assert model.weight_elements(2) == (model.num_parameters - norms) // 2 + norms


def test_kv_bytes_per_token() -> None:
    """Keys and values of each KV head and layer: 2 x heads x head_dim x layers x bytes."""
    model = load_model("meta-llama/Llama-3.1-8B")
    assert model.kv_bytes_per_token() == 2 * 8 * 128 * 32 * 2
    assert model.kv_bytes_per_token(2) == 65_536
    assert model.kv_bytes_per_token(1, "fp8") == 65_536


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    """With more ranks than KV heads each rank still holds one head, and its weights."""
    model = load_model("meta-llama/Llama-3.1-8B")
    assert model.kv_bytes_per_token(8) == model.kv_bytes_per_token(16) == 2 * 128 * 32 * 2
    kv_weights = 2 * 128 * 4096 * 32
    assert 2 * model.weight_elements(16) > model.weight_elements(8) + kv_weights


@pytest.mark.parametrize("ranks", [0, -1, 3, 5, 12, 64])
def test_ranks_must_divide_the_model(ranks: int) -> None:
    """A degree that does not divide the heads is refused, with those that do."""
    with pytest.raises(InputError, match=r"^engine: tensor_parallel_size .*allowed: 1, 2, 4, 8, 16, 32$"):
        load_model("meta-llama/Llama-3.1-8B").check_tensor_parallel_size(ranks, where="engine")


@given(model=models, data=st.data())
def test_ranks_together_hold_the_model_at_least_once(model, data) -> None:  # type: ignore[no-untyped-def]
    """No tensor gets lost when it is divided, and more ranks never hold more each."""
    sizes = model.tensor_parallel_sizes()
    ranks = data.draw(st.sampled_from(sizes))
    assert ranks * model.weight_elements(ranks) >= model.num_parameters
    assert ranks * model.kv_bytes_per_token(ranks) >= model.kv_bytes_per_token(1)
    each = [model.weight_elements(size) for size in sizes]
    assert each == sorted(each, reverse=True)
