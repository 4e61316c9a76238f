"""Makes implementations from their registered factories: options are checked against the factory's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from servetwin.core.errors import InputError, unknown_name
from servetwin.scenario.explain import shorten
from servetwin.scenario.wording import in_plain_words

T = TypeVar("T")


def make(
    factory: Callable[..., T],
    options: Mapping[str, Any],
    context: Mapping[str, Callable[[], Any]],
    where: str,
    beside: Iterable[str] = (),
) -> T:
    """Call ``factory`` with the options that a user gave and what it asks of the context.

    Parameters
    ----------
    factory
        A class or function; its keyword parameters are its options.
    options
        What the user wrote.
    context
        What the scenario knows (seed, device, ...), worked out and handed over where the signature has that name.
    where
        Path of the options, for messages.
    beside
        Keys that may stand beside the options: the nearest match of a misspelt one may be among them.

    Raises
    ------
    InputError
        For an option that the factory does not have, one of the wrong type, or one that is missing.
    """
    parameters = inspect.signature(factory).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    own = [name for name, parameter in parameters.items() if name not in context and parameter.kind in _BY_KEYWORD]
    hints = _hints(factory)
    arguments = {name: find() for name, find in context.items() if name in parameters}
    for name, value in options.items():
        if name in own:
            arguments[name] = _checked(value, hints.get(name, Any), f"{where}.{name}")
        elif open_ended:
            arguments[name] = value
        else:
            raise unknown_name("key", name, [*own, *beside], where=f"{where}.{name}")
    missing = [name for name in own if name not in arguments and parameters[name].default is inspect.Parameter.empty]
    if missing:
        raise InputError(f"option {missing[0]!r} is missing", where=where)
    try:
        return factory(**arguments)
    except InputError as error:
        raise _placed(error, own, where) from None


def _placed(error: InputError, options: Iterable[str], where: str) -> InputError:
    """Return an error of a factory with its place: one of its options, as the factory names it, or all of them."""
    if error.where is None:
        return InputError(str(error), where=where)
    if error.where.partition(".")[0] in options:
        return InputError(str(error).removeprefix(f"{error.where}: "), where=f"{where}.{error.where}")
    return error


_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _hints(factory: Callable[..., object]) -> dict[str, Any]:
    target = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    try:
        return get_type_hints(target)
    except (NameError, TypeError):
        return {}


def _is_scalar(hint: Any) -> bool:
    """Return whether only plain values are allowed, which are then not converted (``"1"`` and true are no numbers)."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return all(part in (int, float, bool, str, type(None)) or get_origin(part) is Literal for part in parts)


def _checked(value: Any, hint: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise InputError(f"given {shorten(value)}: should be a mapping of keys to values", where=where)
        return make(hint, value, {}, where)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(
            hint, config=ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)
        )
    except Exception:  # a hint that pydantic cannot read (a dataclass of its own): the factory checks
        return value
    try:
        return adapter.validate_python(value, strict=_is_scalar(hint))
    except ValidationError as error:
        message = in_plain_words(error.errors(include_url=False)[0])
        raise InputError(f"given {shorten(value)}: {message}", where=where) from None
