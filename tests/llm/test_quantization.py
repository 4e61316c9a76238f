"""Formats of weights with their scales, and reading them from ``quantization_config``."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.llm import ModelArchitecture, load_model
from servetwin.llm.config import read_config
from servetwin.llm.formats import PLAIN_FORMATS, QUANTIZED_FORMATS, WeightFormat

DENSE = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "vocab_size": 640,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
LINEAR_ELEMENTS = 12 * (4 * 256 * 256 + 3 * 256 * 512)
FP8 = {"quant_method": "fp8"}


def read(quantization: object, **changes: Any) -> ModelArchitecture:
    """Return the model above with this ``quantization_config``."""
    return read_config({**DENSE, "quantization_config": quantization, **changes}, name="test", where="c.json")


def compressed(weights: dict[str, Any], activations: object = None, **others: Any) -> dict[str, Any]:
    """Return a config of compressed-tensors with one group."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, **others}


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        ("fp8-block", 8 + 32 / 128**2),
        ("awq", 4 + 20 / 128),
        ("gptq", 4 + 20 / 128 + 32 / 4096),
        ("mxfp4", 4.25),
        ("nvfp4", 4.5 + 32 / 4096**2),
        ("int8", 8 + 32 / 4096),
    ],
)
def test_bits_per_weight_with_scales(scheme: str, bits: float) -> None:
    """Scales, zero points and group indices count."""
    assert QUANTIZED_FORMATS[scheme].matrix_bytes(4096, 4096) * 8 == pytest.approx(bits * 4096**2, abs=8)


@given(
    st.sampled_from([*PLAIN_FORMATS.values(), *QUANTIZED_FORMATS.values()]), st.integers(1, 5000), st.integers(1, 5000)
)
def test_a_matrix_takes_at_least_its_elements(form: WeightFormat, rows: int, columns: int) -> None:
    """Scales only add, and less than a plain 16-bit format takes once a matrix has a few groups."""
    taken = form.matrix_bytes(rows, columns)
    assert taken >= rows * columns * form.bytes_per_element
    if form.bits < 16 and rows >= 128 and columns >= 128:
        assert taken < 2 * rows * columns


FP8_WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel"}
INT4_WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}


@pytest.mark.parametrize(
    ("config", "name", "activations", "bits"),
    [
        (FP8, "fp8", "fp8", 8),
        ({**FP8, "weight_block_size": [64, 32]}, "fp8", "fp8", 8 + 32 / (64 * 32)),
        ({"quant_method": "fbgemm_fp8"}, "fp8", "fp8", 8),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "int4", None, 4 + 20 / 64),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", None, 8),
        ({"quant_algo": "NVFP4"}, "nvfp4", "nvfp4", 4.5),
        (compressed(FP8_WEIGHTS), "fp8", None, 8),
        (compressed(FP8_WEIGHTS, {"num_bits": 8}), "fp8", "fp8", 8),
        (compressed({"num_bits": 8, "type": "int"}, {"num_bits": 8}), "int8", "int8", 8),
        (compressed(INT4_WEIGHTS), "int4", None, 4 + 16 / 32),
        (compressed({"num_bits": 4, "type": "float", "group_size": 32}), "mxfp4", None, 4.25),
    ],
)
def test_methods_of_quantisation(config: dict[str, Any], name: str, activations: str | None, bits: float) -> None:
    """Each method gives the format, the activations' format and the bits per weight."""
    model = read(config)
    form = model.weight_format("mlp")
    assert (form.name, form.activations) == (name, activations)
    assert form.matrix_bytes(4096, 4096) * 8 / 4096**2 == pytest.approx(bits, rel=0.01)


def test_only_matrices_are_quantised() -> None:
    """Embedding, LM head and norms stay plain; a plain format for all replaces that."""
    model, plain = read(FP8), read(None)
    scales = 12 * 5 * 4
    assert plain.weight_bytes() - model.weight_bytes() == LINEAR_ELEMENTS - scales
    assert model.weight_bytes(dtype="bf16") == plain.weight_bytes()
    assert plain.with_quantization("fp8").weight_bytes() == model.weight_bytes()
    assert read({"quant_method": "gptq", "bits": 4, "lm_head": True}).weight_format("lm_head").name == "int4"


@pytest.mark.parametrize(
    ("ignored", "plain_groups"),
    [
        (["lm_head"], 0),
        (["model.layers.1.self_attn.o_proj"], 1),
        (["model.layers.1.self_attn"], 2),
        (["model.layers.1*"], 3),
        (["model.layers.*.self_attn"], 24),
        (["self_attn"], 24),
        (["re:.*self_attn.*"], 24),
        (["re:.*mlp\\.(gate|up|down)_proj$"], 12),
        (["model.layers.0.mlp.gate"], 0),
    ],
)
def test_modules_stay_plain_layer_by_layer(ignored: list[str], plain_groups: int) -> None:
    """Names mean a module and all below it, not those that only begin alike; globs and expressions are understood."""
    model = read({**FP8, "modules_to_not_convert": ignored})
    groups = {tensor.linear for tensor in read(FP8).tensors()}
    assert sum(len(layer.unquantized & groups) * copies for layer, copies in model.layers) == plain_groups


def test_a_glob_of_layer_1_is_not_layer_10() -> None:
    """``model.layers.1*`` is NVIDIA's way to say all of layer 1."""
    model = read({**FP8, "ignored_layers": ["model.layers.1*"]})
    assert [bool(layer.unquantized) for layer in model.layer_sequence] == [index == 1 for index in range(12)]


def test_kv_cache_format() -> None:
    """A config may ask for an fp8 KV cache; a scenario may overrule it."""
    model = read({"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"})
    assert model.kv_bytes_per_token() == 12 * 2 * 256
    assert model.kv_bytes_per_token(dtype="bf16") == 2 * model.kv_bytes_per_token()
    scheme = {"num_bits": 8, "type": "float"}
    assert read(compressed(FP8_WEIGHTS, kv_cache_scheme=scheme)).kv_cache_dtype == "fp8"
    assert read(FP8).kv_cache_dtype == "bf16"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "fp9"}, "c.json: quantization_config: unknown quant_method 'fp9'; did you mean 'fp8'"),
        ({**FP8, "weight_block_size": [128]}, "weight_block_size must be two whole numbers"),
        ({"quant_method": "awq", "bits": 3}, "bits is 3; formats that are known have 4 bits"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "group_size must be .* or -1"),
        ({"quant_algo": "NVFP5"}, "unknown quant_algo 'NVFP5'; did you mean 'NVFP4'"),
        ({"quant_method": "compressed-tensors"}, "config_groups is missing or empty"),
        (compressed({**FP8_WEIGHTS, "strategy": "spiral"}), "unknown strategy 'spiral'"),
        ({**FP8, "kv_cache_scheme": "int3"}, "kv_cache_scheme is 'int3'"),
        ({**FP8, "ignore": ["re:("]}, "is not a valid regular expression"),
    ],
)
def test_unknown_ways_of_quantisation_are_refused(config: dict[str, Any], message: str) -> None:
    """What is not understood is an error that names the key."""
    with pytest.raises(InputError, match=message):
        read(config)


@pytest.mark.parametrize(("size", "allowed"), [(128, "1, 2, 4"), (64, "1, 2, 4, 8"), (-1, "1, 2, 4, 8, 16")])
def test_ranks_do_not_cut_blocks_of_scales(size: int, allowed: str) -> None:
    """A rank's part of the MLP holds whole blocks, as engines demand; the error says which ranks do."""
    quantization = {"quant_method": "awq", "bits": 4, "group_size": size}
    model = read(quantization, hidden_size=1024, num_attention_heads=16, num_key_value_heads=16)
    with pytest.raises(InputError, match=rf"intermediate_size 512( quantised in blocks.*)?\); allowed: {allowed}$"):
        model.check_tensor_parallel_size(32)


def test_an_unknown_scheme_gets_the_nearest() -> None:
    """A misspelt scheme is an error with what was probably meant."""
    with pytest.raises(InputError, match="unknown quantization 'nvfp5'; did you mean 'nvfp4'"):
        load_model("meta-llama/Llama-3.1-8B").with_quantization("nvfp5")
