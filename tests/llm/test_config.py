"""Reading config.json: what is missing, contradictory or not modelled is an error that says where."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.catalogue import load_model
from servetwin.llm.config import read_config

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def read(**changes: Any) -> ModelArchitecture:
    """Read the config above with some keys changed, or left out (``...``)."""
    config = {key: value for key, value in {**LLAMA, **changes}.items() if value is not ...}
    return read_config(config, name="test", where="config.json")


@pytest.mark.parametrize("key", sorted(set(LLAMA) - {"num_key_value_heads"}))
def test_a_missing_key_is_named(key: str) -> None:
    """Each required key, if missing, is named with the file."""
    with pytest.raises(InputError, match=rf"^config\.json: {key} is missing"):
        read(**{key: ...})


@pytest.mark.parametrize("value", [0, -1, 1.5, "32", True, float("nan"), [32], 2**60])
def test_a_size_must_be_a_positive_whole_number(value: object) -> None:
    """No layer count but a positive whole number is read."""
    with pytest.raises(InputError, match=r"config\.json: num_hidden_layers must be a whole number"):
        read(num_hidden_layers=value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 4095}, "hidden_size .4095. is not divisible by num_attention_heads .32."),
        ({"num_key_value_heads": 5}, "num_attention_heads .32. must be a multiple of num_key_value_heads .5."),
        ({"model_type": "lama"}, "unknown model_type 'lama'; did you mean 'llama'"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "num_local_experts names a mixture of experts .mixtral."),
        ({"quantization_config": {"bits": 4}}, "quantised weights"),
        ({"torch_dtype": "bfloat61"}, "torch_dtype: unknown number format 'bfloat61'; did you mean 'bfloat16'"),
        ({"model_type": "mistral", "sliding_window": 4096}, "windowed attention is not modelled"),
        ({"model_type": "mistral", "num_key_value_heads": ...}, "num_key_value_heads is missing"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
    ],
)
def test_what_cannot_be_modelled_is_refused(changes: dict[str, Any], message: str) -> None:
    """Contradictions and unsupported features are refused by name."""
    with pytest.raises(InputError, match=message):
        read(**changes)


def test_a_config_must_be_a_mapping() -> None:
    """A list is no config."""
    with pytest.raises(InputError, match="expected a mapping"):
        read_config([1, 2], name="test", where="config.json")


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    """A syntax error is reported with file and line."""
    file = tmp_path / "broken.json"
    file.write_text('{\n  "model_type": "llama",\n  oops\n}')
    with pytest.raises(InputError, match=r"broken\.json:3: not valid JSON"):
        load_model(file)


def test_families_have_their_own_small_tensors() -> None:
    """Qwen2 has biases on queries, keys and values; Qwen3 norms of queries and keys; Llama what its config says."""

    def names(**changes: Any) -> set[str]:
        return {tensor.name for tensor in read(**changes).tensors()}

    plain = names()
    assert names(model_type="qwen2") - plain == {"q_proj.bias", "kv_proj.bias"}
    assert names(model_type="qwen3") - plain == {"qk_norm"}
    assert names(attention_bias=True, mlp_bias=True) - plain == {
        "q_proj.bias",
        "kv_proj.bias",
        "o_proj.bias",
        "gate_up_proj.bias",
        "down_proj.bias",
    }
    assert plain - names(tie_word_embeddings=True) == {"lm_head"}


def test_an_unused_sliding_window_is_ignored() -> None:
    """Qwen2.5 states a window and says that it does not use it."""
    assert read(sliding_window=1024, use_sliding_window=False, model_type="qwen2").hidden_size == 4096
    assert read(sliding_window=None).hidden_size == 4096


@given(
    st.dictionaries(
        st.sampled_from([*LLAMA, "head_dim", "num_experts", "sliding_window"]),
        st.none()
        | st.booleans()
        | st.integers(-2, 10**4)
        | st.floats()
        | st.text(max_size=8)
        | st.lists(st.integers(), max_size=2),
    )
)
def test_any_config_is_read_or_refused_in_words(changes: dict[str, object]) -> None:
    """Whatever stands in a config, reading it gives an architecture or an InputError, never another exception."""
    with suppress(InputError):
        assert read(**changes).num_parameters > 0
