"""Reading YAML strictly: safe loader, YAML 1.2 scalars, no duplicate keys, and the line of every key."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from servetwin.core.errors import InputError

MAX_NODES = 200_000
"""Most values that a file may hold once its aliases are expanded."""

MAX_CHARACTERS = 20_000_000
"""Most characters that are read of a file: a scenario is never that long."""

KeyPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's plain scalars (``1e9`` is a number, ``no`` and ``1:30`` are text)."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping; a key that stands twice is an error."""
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice, first on line {seen[key]}", key_node.start_mark
                )
            seen[key] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float | int:
        """Construct a number; ``1e6``, written without a point, is a whole one."""
        value = super().construct_yaml_float(node)
        whole = "." not in node.value and value.is_integer() and abs(value) < 2**53
        return int(value) if whole else value


_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def _plain(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))


_plain("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF")
_plain("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789")
_plain("float", r"^[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789")
_plain("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+.")
_plain("null", r"^(?:~|null|Null|NULL|)$", "~nN\0")
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^$"), [""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])


@dataclass(frozen=True, slots=True)
class YamlSource:
    """A YAML document: its data, and where each key stands.

    Attributes
    ----------
    data
        The document as plain Python values.
    label
        The file's name, for messages.
    """

    data: Any
    label: str
    root: yaml.Node | None = None

    def line(self, path: Sequence[str | int]) -> int | None:
        """Return the line (from 1) of the key at ``path``, or of the nearest one above it that the file has."""
        node = self.root
        if node is None:
            return None
        line = node.start_mark.line + 1
        for part in path:
            step = _child(node, part)
            if step is None:
                break
            node, line = step
        return int(line)


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == part:
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        value = node.value[part]
        return value, value.start_mark.line + 1
    return None


def read_yaml(path: str | Path) -> YamlSource:
    """Read one YAML file.

    Raises
    ------
    InputError
        If the file cannot be read, or is no valid YAML; with the line.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not a text file in UTF-8 ({error.reason} at byte {error.start})", where=str(path)) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=str(path)) from None
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"is longer than {MAX_CHARACTERS:,} characters: no scenario", where=str(path))
    return parse_yaml(text, str(path))


def parse_yaml(text: str, label: str) -> YamlSource:
    """Parse YAML text; see `read_yaml`."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return YamlSource(None, label)
        _count(root, label)
        data = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{label}:{mark.line + 1}" if mark else label
        raise InputError(f"not valid YAML: {error.problem or error.context}", where=place) from None
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML: {' '.join(str(error).split())}", where=label) from None
    except RecursionError:
        raise InputError("nested too deeply", where=label) from None
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"holds a value that cannot be read: {str(error).split(';')[0]}", where=label) from None
    return YamlSource(data, label, root)


def parse_value(text: str, label: str) -> Any:
    """Return one value as YAML writes it: ``128``, ``0.5``, ``true``, ``[1, 2]``, ``{kind: poisson}``, text."""
    return parse_yaml(text, label).data


def parse_values(text: str, label: str) -> list[Any]:
    """Return the values of a comma-separated list; commas inside brackets or quotes do not separate."""
    values = parse_yaml(f"[{text}]", label).data
    if not isinstance(values, list) or not values:
        raise InputError("no value is given; write path=value,value", where=label)
    return values


def _count(root: yaml.Node, label: str) -> None:
    """Refuse a document that refers to itself, or that grows beyond bounds when its aliases are expanded."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known == 0:
            raise InputError("an alias refers to the value it stands in", where=f"{label}:{node.start_mark.line + 1}")
        if known is not None:
            return known
        sizes[id(node)] = 0
        total = 1
        if isinstance(node, yaml.MappingNode):
            total += sum(size(key) + size(value) for key, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(size(item) for item in node.value)
        sizes[id(node)] = total
        return total

    if size(root) > MAX_NODES:
        raise InputError(f"holds more than {MAX_NODES} values when its aliases are expanded", where=label)
