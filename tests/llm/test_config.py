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
from servetwin.llm.parts import MixtureOfExperts

MIXTRAL: dict[str, Any] = {"num_local_experts": 8, "num_experts_per_tok": 2}
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
FP8 = {"quant_method": "fp8"}
DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
}
OTHERS = ["head_dim", "num_experts", "sliding_window", "layer_types", "quantization_config", "text_config"]


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
        ({"num_local_experts": 8}, "num_local_experts names a mixture of experts, but llama models have none"),
        ({"model_type": "mixtral"}, "num_local_experts is missing"),
        ({"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 9}, "9. is more than num_local_expe"),
        (
            {"model_type": "deepseek_v32", "index_topk": 64},
            "description .*; the config also asks for spar",
        ),
        ({"model_type": "gemma3"}, "text_config is missing: a gemma3 config holds its text model there"),
        ({"model_type": "gemma3", "text_config": {}}, "config.json: text_config: hidden_size is missing"),
        ({"model_type": "gemma2", "sliding_window": 64, "layer_types": ["full_attention"]}, "1 entries .*layers .32."),
        ({"model_type": "minimax_m2", **MIXTRAL, "attn_type_list": [0] * 32}, "attn_type_list must be 1 .*linear"),
        ({"sliding_window": 64}, "sliding_window of 64 tokens: llama models attend to everything"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; more than 10000 layers are not believed"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: quant_method is missing"),
        ({"torch_dtype": "bfloat61"}, "torch_dtype: unknown number format 'bfloat61'; did you mean 'bfloat16'"),
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
    assert read(sliding_window=None).features == ()


def windows(**changes: Any) -> list[int | None]:
    """Return each layer's window."""
    return [layer.attention.window for layer in read(num_hidden_layers=6, **changes).layer_sequence]


def test_each_family_has_its_windowed_layers() -> None:
    """Windows follow the family's rule, or ``layer_types``; one as long as the context is none."""
    assert windows(model_type="mistral", sliding_window=64) == [64] * 6
    assert windows(model_type="mistral", sliding_window=131072) == [None] * 6
    assert windows(model_type="gemma2", sliding_window=64) == [64, None] * 3
    assert windows(model_type="gemma3_text", sliding_window=64) == [64] * 5 + [None]
    assert windows(model_type="gemma3_text", sliding_window=64, sliding_window_pattern=2) == [64, None] * 3
    qwen = {"model_type": "qwen3", "sliding_window": 64, "use_sliding_window": True}
    assert windows(**qwen, max_window_layers=4) == [None] * 4 + [64] * 2
    assert windows(**qwen, max_window_layers=0) == [64] * 6
    types = ["full_attention", "sliding_attention", "sliding_attention"] * 2
    assert windows(**qwen, layer_types=types) == [None, 64, 64] * 2


def test_llama4_attends_in_chunks_on_three_layers_of_four() -> None:
    """Llama 4 has a chunk of 8192 tokens on layers with rotary positions."""
    model = read(model_type="llama4_text", **MIXTRAL, intermediate_size_mlp=8, interleave_moe_layer_step=2)
    assert [layer.attention.window for layer in model.layer_sequence[:4]] == [8192, 8192, 8192, None]
    assert {layer.attention.window_kind for layer in model.layer_sequence if layer.attention.window} == {"chunked"}
    assert [type(layer.mlp).__name__ for layer in model.layer_sequence[:2]] == ["Mlp", "MixtureOfExperts"]


def test_dense_and_sparse_layers_mix() -> None:
    """DeepSeek's first layers are dense; Qwen's are where ``mlp_only_layers`` and the step say."""
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512}

    def sparse(**changes: Any) -> list[bool]:
        return [isinstance(layer.mlp, MixtureOfExperts) for layer in read(**changes).layer_sequence[:4]]

    assert sparse(model_type="qwen3_moe", **experts) == [True] * 4
    assert sparse(model_type="qwen3_moe", **experts, decoder_sparse_step=2) == [False, True] * 2
    assert sparse(model_type="qwen3_moe", **experts, mlp_only_layers=[0, 3]) == [False, True, True, False]
    deepseek = {**DEEPSEEK, "first_k_dense_replace": 3}
    assert sparse(**deepseek) == [False, False, False, True]


def test_the_text_model_is_found_in_a_multimodal_config() -> None:
    """The outer format and quantisation hold for the text model; its own keys come first."""
    inner = {**LLAMA, "model_type": "mistral", "torch_dtype": None}
    outer = {"model_type": "mistral3", "dtype": "float16", "text_config": inner, "quantization_config": FP8}
    model = read_config(outer, name="test", where="config.json")
    assert (model.model_type, model.dtype, model.format_name) == ("mistral", "fp16", "fp8")


@given(
    st.sampled_from([{}, {"model_type": "mixtral", **MIXTRAL}, DEEPSEEK, {"model_type": "gemma3_text"}]),
    st.dictionaries(
        st.sampled_from([*LLAMA, *MIXTRAL, *DEEPSEEK, *OTHERS]),
        st.none()
        | st.booleans()
        | st.integers(-2, 10**4)
        | st.floats()
        | st.text(max_size=8)
        | st.lists(st.integers(), max_size=2),
    ),
)
def test_any_config_is_read_or_refused_in_words(family: dict[str, Any], changes: dict[str, object]) -> None:
    """Whatever stands in a config, reading it gives an architecture or an InputError, never another exception."""
    with suppress(InputError):
        model = read(**{**family, **changes})
        assert 0 < model.num_active_parameters <= model.num_parameters
        assert model.weight_bytes() > model.num_parameters // 4
        assert model.kv_bytes_per_token() > 0
