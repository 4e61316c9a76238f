"""The built-in models: exact parameter counts, and loading by name, alias, file and directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from servetwin.core.errors import InputError
from servetwin.llm import list_models, load_model, model_names


@pytest.mark.parametrize("name", model_names())
def test_parameter_count_is_the_published_one(name: str) -> None:
    """The tensors that the config implies have exactly as many elements as the publisher's checkpoint."""
    entry = next(entry for entry in list_models() if entry.architecture.name == name)
    assert entry.published_source.startswith("https://huggingface.co/")
    assert entry.architecture.num_parameters == entry.published_parameters


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama/Llama-3.1-8B", 8.03),
        ("meta-llama/Llama-3.1-70B", 70.6),
        ("meta-llama/Llama-3.2-1B", 1.23),
        ("meta-llama/Llama-3.2-3B", 3.21),
        ("Qwen/Qwen3-32B", 32.8),
        ("Qwen/Qwen3-8B", 8.2),
        ("Qwen/Qwen2.5-7B-Instruct", 7.61),
        ("Qwen/Qwen2.5-14B-Instruct", 14.7),
        ("Qwen/Qwen2.5-72B-Instruct", 72.7),
        ("mistralai/Mistral-7B-v0.3", 7.25),
    ],
)
def test_parameter_count_rounds_to_the_model_card(name: str, billions: float) -> None:
    """The count is within the last digit of the figure on the model card (on Hugging Face)."""
    digits = len(str(billions).partition(".")[2])
    assert load_model(name).num_parameters / 1e9 == pytest.approx(billions, abs=10**-digits)


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
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 100,
        "max_position_embeddings": 512,
        "torch_dtype": "bfloat16",
    }
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


@pytest.mark.measured
@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B", "Qwen/Qwen3-32B"])
def test_catalogue_agrees_with_llmservingsim(reference: Path, name: str) -> None:
    """The built-in entry has the sizes of the config.json that LLMServingSim ships."""
    theirs = load_model(reference / "llmservingsim/configs/model" / f"{name}.json")
    ours = load_model(name)
    assert list(ours.tensors()) == list(theirs.tensors())
    assert (ours.dtype, ours.max_position_embeddings) == (theirs.dtype, theirs.max_position_embeddings)
