"""The built-in devices, one small file each, and loading one by name or from a file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.fields import read_document
from servetwin.hardware.base import Device, read_device

CATALOGUE = Path(__file__).parent / "catalog"


def load_device(name_or_path: str | Path, *, relative_to: Path | None = None, where: str | None = None) -> Device:
    """Return a built-in device, or one that a YAML file describes.

    Parameters
    ----------
    name_or_path
        A name of `device_names` (or an alias, in any case), or the path of a file.
    relative_to
        The directory from which a relative path counts (that of the scenario file).
    where
        The key's path, for messages.

    Raises
    ------
    InputError
        For an unknown name (with the nearest match), a missing file, or a file that is no device.
    """
    text = str(name_or_path)
    device = _find(text)
    if device is not None:
        return device
    path = (relative_to or Path()) / text
    if path.is_file():
        return read_device(read_document(path), where=str(path), folder=path.parent)
    if path.suffix in (".yaml", ".yml", ".json"):
        raise InputError(f"no such file: {path}", where=where)
    raise unknown_name("device", text, _names_and_aliases(), where=where)


def device_names() -> list[str]:
    """Return the names of the built-in devices, sorted; reads no file."""
    return sorted(path.stem for path in CATALOGUE.glob("*.yaml"))


def list_devices() -> list[Device]:
    """Return all built-in devices, sorted by name."""
    return [_read(name) for name in device_names()]


@cache
def _read(name: str) -> Device:
    path = CATALOGUE / f"{name}.yaml"
    return read_device(read_document(path), where=str(path))


def _find(text: str) -> Device | None:
    names = device_names()
    if text in names:
        return _read(text)
    wanted = text.casefold()
    for name in names:
        device = _read(name)
        if wanted == name.casefold() or wanted in (alias.casefold() for alias in device.aliases):
            return device
    return None


def _names_and_aliases() -> list[str]:
    return [name for device in list_devices() for name in (device.name, *device.aliases)]
