"""The header of a device's profile: which device, and under which conditions it was measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from servetwin.core.errors import InputError
from servetwin.core.fields import Fields, read_document

HEADER = "device_profile.yaml"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Header:
    """What stands above the tables.

    Attributes
    ----------
    device
        The name that the driver reports.
    device_type
        ``cuda`` or ``cpu``.
    catalogue
        Name of the same device in the catalogue, or None.
    conditions
        Everything else that the times depend on: versions, clocks, threads, power limit, when it was taken; numbers
        and texts by name.
    """

    device: str
    device_type: str
    catalogue: str | None
    conditions: Mapping[str, str | int | float]

    def write(self, folder: Path) -> None:
        """Write the header; it appears whole or not at all."""
        content: dict[str, Any] = {"format": FORMAT, "device": self.device, "device_type": self.device_type}
        if self.catalogue is not None:
            content["catalogue"] = self.catalogue
        content["conditions"] = dict(self.conditions)
        draft = folder / f".{HEADER}"
        draft.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
        os.replace(draft, folder / HEADER)


def read_header(folder: Path) -> Header:
    """Return the header of the profile in ``folder``.

    Raises
    ------
    InputError
        If there is none, or it is not one that this version reads.
    """
    path = folder / HEADER
    if not path.is_file():
        raise InputError(f"holds no {HEADER}: not a device's profile", where=str(folder))
    fields = Fields(read_document(path), str(path))
    version = fields.integer("format")
    if version != FORMAT:
        raise InputError(f"format {version} is not one that this version reads ({FORMAT})", where=str(path))
    device_type = fields.text("device_type")
    if device_type not in ("cuda", "cpu"):
        raise fields.error("device_type", f"must be cuda or cpu, got {device_type!r}")
    header = Header(
        fields.text("device"),
        device_type,
        fields.text("catalogue") if "catalogue" in fields else None,
        _conditions(fields.child("conditions")),
    )
    fields.refuse_others()
    return header


def _conditions(fields: Fields) -> dict[str, str | int | float]:
    conditions: dict[str, str | int | float] = {}
    for name in fields:
        value = fields.raw(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise fields.error(name, "must be a number or a text")
        conditions[name] = value
    return conditions


SAME = ("torch",)
"""Conditions that must not change within one profile."""


def check_same(old: Header, new: Header, folder: Path) -> None:
    """Raise if a profile that is to be continued is of another device, or of another version of PyTorch."""
    pairs = [("device", old.device, new.device), ("device_type", old.device_type, new.device_type)]
    pairs += [(name, str(old.conditions.get(name)), str(new.conditions.get(name))) for name in SAME]
    for name, before, now in pairs:
        if before != now:
            raise InputError(
                f"holds a profile taken with {name} {before!r}, this is {now!r}; choose another directory with -o",
                where=str(folder),
            )
