"""What changes timing and is not modelled yet: refused by name, so that no result pretends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from servetwin.core.errors import InputError, unknown_name

_LOCATIONS = ("weights", "kv_loc", "kv_evict_loc")
_AT_HOME = {"weights": "npu", "kv_loc": "npu", "kv_evict_loc": "cpu"}


def not_modelled(where: str, what: str, feature: str) -> InputError:
    """Return the error for something that a later version will model."""
    message = f"{what} is not modelled yet ({feature}); remove it to simulate the deployment without"
    return InputError(message, where=where)


def check_placement(placement: object, where: str) -> None:
    """Accept a placement that keeps everything on the accelerator, and refuse any other by its key."""
    if placement is None:
        return
    for path, rule in _rules(placement, where):
        for key, value in rule.items():
            if key == "blocks":
                continue
            if key not in _LOCATIONS:
                raise unknown_name("key", key, (*_LOCATIONS, "blocks"), where=path)
            allowed = ("npu", _AT_HOME[key])
            if value not in allowed:
                raise not_modelled(f"{path}.{key}", f"placement {value!r}", "weights and KV outside the accelerator")


def _rules(placement: object, where: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    for key, part in _mapping(placement, where).items():
        path = f"{where}.{key}"
        if key == "default":
            yield path, _mapping(part, path)
        elif key == "layers":
            for name, rule in _mapping(part, path).items():
                yield f"{path}.{name}", _mapping(rule, f"{path}.{name}")
        elif key == "blocks":
            if not isinstance(part, list):
                raise InputError(f"a list is needed, found {part!r}", where=path)
            for i, rule in enumerate(part):
                yield f"{path}[{i}]", _mapping(rule, f"{path}[{i}]")
        else:
            raise unknown_name("key", key, ("default", "blocks", "layers"), where=where)


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise InputError(f"an object is needed, found {value!r}", where=where)
    return value
