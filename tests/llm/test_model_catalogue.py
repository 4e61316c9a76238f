"""The built-in models: exact parameter counts, and loading by name, alias, file and directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from servetwin.core.errors import InputError
from servetwin.llm import list_models, load_model, model_names
from servetwin.llm.families import FAMILIES

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
ENTRIES = {entry.architecture.name: entry for entry in list_models()}


@pytest.mark.parametrize("name", model_names())
def test_parameter_count_is_exact(name: str) -> None:
    """The tensors that the config implies have as many elements as the checkpoint, or as transformers' modules."""
    entry = ENTRIES[name]
    assert "safetensors" in entry.exact_source or "transformers" in entry.exact_source
    assert entry.architecture.num_parameters == entry.exact_parameters


def agrees(parameters: int, printed: str) -> bool:
    """Return whether a count is within the last digit of a figure such as ``46.7B``."""
    number, unit = printed[:-1], {"B": 1e9, "T": 1e12}[printed[-1]]
    digits = len(number.partition(".")[2])
    return abs(parameters / unit - float(number)) < 10**-digits


@pytest.mark.parametrize("name", model_names())
def test_parameter_count_is_the_published_one(name: str) -> None:
    """Total and activated parameters agree with what the publisher prints, to the last digit, counted as they count."""
    entry = ENTRIES[name]
    model, published = entry.architecture, entry.published
    assert published.source.startswith("https://")
    sizes = {tensor.name: tensor.elements for tensor in model.tensors()}
    left_out = sum(sizes[tensor] for tensor in published.total_leaves_out)
    total = model.num_parameters - left_out + sum(published.total_counts_besides.values())
    assert agrees(total, published.total)
    if published.active is not None:
        active = model.num_active_parameters - sum(sizes[tensor] for tensor in published.active_leaves_out)
        assert agrees(active, published.active)
    assert (published.active is not None) == model.is_moe


def test_the_catalogue_holds_all_families() -> None:
    """At least 40 models; each family has one, and each format but those that only a user asks for."""
    assert len(ENTRIES) >= 40
    assert {entry.architecture.model_type for entry in ENTRIES.values()} == set(FAMILIES)
    schemes = [entry.architecture.quantization for entry in ENTRIES.values()]
    formats = {scheme.weights.name for scheme in schemes if scheme}
    assert formats == {"fp8", "int8", "int4", "mxfp4", "nvfp4"}


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("openai/gpt-oss-20b", 12.8),
        ("openai/gpt-oss-120b", 60.8),
    ],
)
def test_quantised_weights_take_the_published_memory(name: str, gib: float) -> None:
    """The checkpoint's size in GiB, MXFP4 scales included, is OpenAI's (arXiv 2508.10925, table 1)."""
    assert load_model(name).weight_bytes() / 2**30 == pytest.approx(gib, abs=0.05)


def test_names_and_aliases_in_any_case_mean_the_same_model() -> None:
    """A model is found by its name, by an alias, and in any case."""
    model = load_model("meta-llama/Llama-3.1-8B")
    assert load_model("META-LLAMA/llama-3.1-8b") is model
    assert load_model("meta-llama/Meta-Llama-3.1-8B-Instruct") is model


def test_no_name_is_taken_twice() -> None:
    """Names and aliases of the catalogue are distinct."""
    names = [name.casefold() for entry in list_models() for name in (entry.architecture.name, *entry.aliases)]
    assert len(names) == len(set(names))


def test_an_unknown_name_gets_the_nearest() -> None:
    """A misspelt name is an error that says where it stands and what was probably meant."""
    with pytest.raises(InputError, match=r"^model: .*did you mean 'Qwen/Qwen3-32B'"):
        load_model("Qwen/Qwen3-32", where="model")


def test_a_file_and_its_directory_are_the_same_model(tmp_path: Path) -> None:
    """A config.json is read by its path, by its directory, and relative to a scenario's directory."""
    folder = tmp_path / "MyModel"
    folder.mkdir()
    config = TINY
    (folder / "config.json").write_text(json.dumps(config))
    by_file = load_model(folder / "config.json")
    assert by_file.name == "MyModel"
    assert by_file.num_key_value_heads == 4
    assert load_model(folder) == by_file
    assert load_model("MyModel/config.json", relative_to=tmp_path).num_parameters == by_file.num_parameters


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    """A path to nothing is an error about the file, not about a name."""
    with pytest.raises(InputError, match="no such file"):
        load_model(tmp_path / "config.json")


def test_quantisation_may_stand_beside_the_config(tmp_path: Path) -> None:
    """NVIDIA's ``hf_quant_config.json`` counts where the config itself says nothing of quantisation."""
    config = {**TINY, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    beside = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    model = load_model(tmp_path)
    assert (model.format_name, model.kv_cache_dtype) == ("nvfp4 (modelopt)", "fp8")
    (tmp_path / "hf_quant_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"hf_quant_config.json: quantization is missing"):
        load_model(tmp_path)


@pytest.mark.measured
@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B", "Qwen/Qwen3-32B"])
def test_catalogue_agrees_with_llmservingsim(reference: Path, name: str) -> None:
    """The built-in entry has the sizes of the config.json that LLMServingSim ships."""
    theirs = load_model(reference / "llmservingsim/configs/model" / f"{name}.json")
    ours = load_model(name)
    assert list(ours.tensors()) == list(theirs.tensors())
    assert (ours.dtype, ours.max_position_embeddings) == (theirs.dtype, theirs.max_position_embeddings)
