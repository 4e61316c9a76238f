"""Strict reading of YAML: what is a number, what is refused, and where each key stands."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.scenario.yaml_source import parse_value, parse_values, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("128", 128),
        ("-3", -3),
        ("1e9", 10**9),
        ("1.0e9", 1e9),
        ("1e30", 1e30),
        ("1.5e-3", 0.0015),
        ("0.5", 0.5),
        ("true", True),
        ("no", "no"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("unlimited", "unlimited"),
        ("'8'", "8"),
        ("~", None),
        ("[1, 2]", [1, 2]),
        ("{kind: poisson, rate_per_s: 8}", {"kind": "poisson", "rate_per_s": 8}),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    """A value is read as YAML 1.2 reads it: no sexagesimal numbers, no dates, no "no" that means false."""
    read = parse_value(text, "--set x")
    assert read == value
    assert type(read) is type(value)


def test_lists_split_at_top_level_commas_only() -> None:
    """Commas inside brackets, braces or quotes do not separate values."""
    assert parse_values("1,[2, 3],{a: 4, b: 5},'6,7'", "--vary x") == [1, [2, 3], {"a": 4, "b": 5}, "6,7"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: not valid YAML: key 'a' stands twice, first on line 1"),
        ("a: [1, 2\nb: 3\n", "f.yaml:2: not valid YAML"),
        ("a: !!python/object:os.system x\n", "f.yaml:1: not valid YAML"),
        ("a: &x [*x]\n", "f.yaml:1: an alias refers to the value it stands in"),
        ("[" * 5000, "f.yaml: nested too deeply"),
        ("a: \x00\n", "f.yaml: not valid YAML"),
        ("--- 1\n--- 2\n", "f.yaml:2: not valid YAML"),
    ],
)
def test_what_is_refused_names_the_line(text: str, message: str) -> None:
    """Duplicate keys, broken or unsafe YAML and endless structures are input errors with their place."""
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value).startswith(message)


def test_aliases_that_explode_are_refused() -> None:
    """A few lines of aliases that stand for billions of values are refused before they are built."""
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
    )
    with pytest.raises(InputError, match="values when its aliases are expanded"):
        parse_yaml(text, "f.yaml")


def test_lines_of_keys() -> None:
    """The line of a nested key, of a list's item, and of the nearest key above one that is absent."""
    source = parse_yaml("a:\n  - b: 1\n  -\n    c: 2\nd: 3\n", "f.yaml")
    assert source.line(("a", 0, "b")) == 2
    assert source.line(("a", 1, "c")) == 4
    assert source.line(("a", 1, "missing")) == 4
    assert source.line(("d",)) == 5


def test_unreadable_files_are_input_errors(tmp_path: Path) -> None:
    """A missing file, a directory and a file that is no text are input errors that name the file."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    for path in (tmp_path / "missing.yaml", tmp_path, binary):
        with pytest.raises(InputError, match=path.name):
            read_yaml(path)


@given(st.text(max_size=60) | st.text("ab:-[]{}&*!|>'\"#%@`,? \n\t0123.~", max_size=40))
def test_any_text_gives_a_value_or_an_input_error(text: str) -> None:
    """Whatever text is read, nothing but InputError is raised."""
    with suppress(InputError):
        parse_yaml(text, "f.yaml")
