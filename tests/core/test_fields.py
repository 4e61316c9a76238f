"""Reading small files of facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from servetwin.core.errors import InputError
from servetwin.core.fields import Fields, read_document
from servetwin.core.number_formats import bytes_per_element, number_format


def test_yaml_and_json_read_alike(tmp_path: Path) -> None:
    """Both formats give plain values; an exponent without a dot is a number."""
    (tmp_path / "a.yaml").write_text("x: 1e9\ny: [a, b]\n")
    (tmp_path / "a.json").write_text('{"x": 1e9, "y": ["a", "b"]}')
    assert read_document(tmp_path / "a.yaml") == read_document(tmp_path / "a.json") == {"x": 1e9, "y": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "x: 1\ny: [1\nz: 2\n", r"a\.yaml:3: not valid YAML"),
        ("a.yaml", "x: !!python/object:os.system {}\n", r"a\.yaml:1: not valid YAML"),
        ("a.yaml", "x: \x00\n", r"a\.yaml: not valid"),
        ("a.json", '{"x": 1,\n"y" 2}', r"a\.json:2: not valid JSON"),
    ],
)
def test_what_cannot_be_parsed_names_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    """Syntax errors and unsafe tags are errors with the file and the line."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_document(tmp_path / name)


def test_a_missing_or_binary_file_is_an_input_error(tmp_path: Path) -> None:
    """Files that cannot be read are the user's to mend."""
    with pytest.raises(InputError, match="no such file"):
        read_document(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_document(tmp_path / "binary.yaml")


def test_keys_that_nobody_asked_for_are_refused() -> None:
    """A key is known once it was asked for, or is allowed."""
    fields = Fields({"a": 1, "b": 2}, "file")
    assert fields.integer("a") == 1
    fields.refuse_others(["b"])
    with pytest.raises(InputError, match=r"^file: unknown key 'b'"):
        fields.refuse_others()


@pytest.mark.parametrize(
    ("given_name", "short", "size"),
    [
        ("torch.bfloat16", "bf16", 2),
        ("half", "fp16", 2),
        ("float32", "fp32", 4),
        ("fp8_e4m3", "fp8", 1),
        ("INT8", "int8", 1),
    ],
)
def test_number_formats_by_any_name(given_name: str, short: str, size: int) -> None:
    """PyTorch's, Hugging Face's and vLLM's names mean one format each."""
    assert number_format(given_name) == short
    assert bytes_per_element(given_name) == size
