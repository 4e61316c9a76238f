"""pydantic's messages in the words of a scenario's reader: "should be a whole number" and not "valid dictionary"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORDS = {
    "bool_type": "should be true or false",
    "dict_type": "should be a mapping of keys to values",
    "finite_number": "should be a finite number",
    "float_type": "should be a number",
    "greater_than": "should be greater than {gt:,}",
    "greater_than_equal": "should be at least {ge:,}",
    "int_from_float": "should be a whole number",
    "int_type": "should be a whole number",
    "less_than": "should be less than {lt:,}",
    "less_than_equal": "should be at most {le:,}",
    "list_type": "should be a list",
    "model_attributes_type": "should be a mapping of keys to values",
    "model_type": "should be a mapping of keys to values",
    "string_type": "should be text",
    "tuple_type": "should be a list",
}


def in_plain_words(details: Mapping[str, Any]) -> str:
    """Return what is wrong by one of pydantic's error details, to stand after the value that was given."""
    words = _WORDS.get(details["type"])
    if words is not None:
        return words.format(**details.get("ctx") or {})
    message: str = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return message[0].lower() + message[1:]
