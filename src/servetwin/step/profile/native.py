"""Our own format of a measured profile: a folder with ``profile.yaml`` and CSV tables (see docs/profile-format.md)."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.fields import Fields, read_document
from servetwin.step.host import NO_HOST_OVERHEAD, HostOverhead
from servetwin.step.profile.csv_table import Column, read_table
from servetwin.step.profile.curves import complete_grid, curves_by_layer, expert_block, joint_attention
from servetwin.step.profile.folders import degree_folder
from servetwin.step.profile.layers import DENSE, EXPERT, MLP, PER_SEQUENCE, WITHOUT_MLP, check_layers
from servetwin.step.profile.tables import (
    AdditiveAttention,
    Curve,
    ExpertBlock,
    Grid,
    JointAttention,
    Profile,
    SerialRead,
    SingleExpert,
    TokenPadding,
)

FORMAT = 1
MANIFEST = "profile.yaml"
PADDINGS = ("none", "cuda_graph", "power_of_two")

_DENSE = (Column("layer", "text"), Column("tokens", "count", 1), Column("time_us", "us"))
_PER_SEQUENCE = (Column("layer", "text"), Column("sequences", "count", 1), Column("time_us", "us"))
JOINT = (
    Column("prefill_chunk", "count"),
    Column("kv_prefill", "count"),
    Column("num_decodes", "count"),
    Column("kv_decode", "count"),
    Column("time_us", "us"),
)
_SERIAL = (Column("from_decodes", "count", 1), Column("ns_per_token", "ns"))
_BLOCK = (Column("tokens", "count", 1), Column("activated_experts", "count", 1), Column("time_us", "us"))
_EXPERT = (Column("layer", "text"), Column("count", "count", 1), Column("time_us", "us"))
_PREFILL = (Column("kv_prefill", "count"), Column("prefill_chunk", "count", 1), Column("time_us", "us"))
_DECODE = (Column("num_decodes", "count", 1), Column("kv_decode", "count"), Column("time_us", "us"))


def is_native(folder: Path) -> bool:
    """Return whether ``folder`` is a profile in our format."""
    return (folder / MANIFEST).is_file()


def read_native(folder: Path, tensor_parallel_size: int) -> Profile:
    """Read one tensor-parallel degree of a profile.

    Raises
    ------
    InputError
        For a degree, file, layer, key, column or value that is missing, unknown or wrong.
    """
    path = folder / MANIFEST
    fields = Fields(read_document(path), str(path))
    if fields.integer("format") != FORMAT:
        raise fields.error("format", f"must be {FORMAT}")
    hardware, model = fields.text("hardware"), fields.text("model")
    padding = fields.text("token_padding", "none")
    if padding not in PADDINGS:
        raise fields.error("token_padding", f"must be one of {', '.join(PADDINGS)}, got {padding!r}")
    not_measured = _not_measured(fields)
    host = _host(fields)
    tile = fields.integer("context_tile", 1)
    gaps_included = fields.flag("gaps_included", False)
    fields.refuse_others()
    own = degree_folder(folder, tensor_parallel_size)
    experts = _experts(own)
    layers = WITHOUT_MLP if experts else DENSE
    return Profile(
        hardware=hardware,
        model=model,
        tensor_parallel_size=tensor_parallel_size,
        dense=_curves(own / "dense.csv", _DENSE, "tokens", layers, not_measured),
        per_sequence=_curves(own / "per_sequence.csv", _PER_SEQUENCE, "sequences", PER_SEQUENCE, not_measured),
        attention=_attention(own, tile),
        experts=experts,
        serial=_serial(own / "serial_read.csv"),
        token_padding=cast(TokenPadding, padding),
        host=host,
        gaps_included=gaps_included,
        source=str(folder),
        not_measured=not_measured,
    )


def _not_measured(fields: Fields) -> dict[str, str]:
    """Return the layers that the tables leave out on purpose, with the reasons."""
    if "not_measured" not in fields:
        return {}
    reasons = fields.child("not_measured")
    known = [*DENSE, *PER_SEQUENCE]
    for layer in reasons:
        if layer not in known:
            raise unknown_name("layer", layer, known, where=reasons.where)
    return {layer: reasons.text(layer) for layer in reasons}


def _curves(
    path: Path, columns: Sequence[Column], counts: str, known: Sequence[str], absent: Mapping[str, str]
) -> dict[str, Curve]:
    table = read_table(path, columns)
    curves = curves_by_layer(table, "layer", counts, "time_us")
    for layer in curves:
        if layer not in known:
            where = table.where(int(np.argmax(table["layer"] == layer)))
            if layer in MLP:
                raise InputError(f"layer {layer} beside experts: all blocks must be alike; leave it out", where=where)
            raise unknown_name("layer", layer, known, where=where)
    check_layers(curves, [layer for layer in known if layer not in absent], str(path))
    return curves


def _host(fields: Fields) -> HostOverhead:
    if "host" not in fields:
        return NO_HOST_OVERHEAD
    host = fields.child("host")
    values = {name: host.number(name) for name in ("per_step_us", "per_request_us") if name in host}
    host.refuse_others()
    return HostOverhead(**values)


def _attention(folder: Path, context_tile: int) -> JointAttention | AdditiveAttention:
    """Read ``attention.csv``, or ``attention_prefill.csv`` and ``attention_decode.csv``."""
    joint = folder / "attention.csv"
    parts = folder / "attention_prefill.csv", folder / "attention_decode.csv"
    if joint.is_file() == any(part.is_file() for part in parts):
        message = f"needs either {joint.name}, or {parts[0].name} and {parts[1].name}"
        raise InputError(message, where=str(folder))
    if joint.is_file():
        return joint_attention(read_table(joint, JOINT))
    return AdditiveAttention(
        complete_grid(read_table(parts[0], _PREFILL), "kv_prefill", "prefill_chunk", "time_us"),
        complete_grid(read_table(parts[1], _DECODE), "num_decodes", "kv_decode", "time_us"),
        context_tile,
    )


def _experts(folder: Path) -> ExpertBlock | SingleExpert | None:
    """Read ``moe.csv`` (whole blocks) or ``expert.csv`` (one expert); None for a dense model."""
    block, single = folder / "moe.csv", folder / "expert.csv"
    if block.is_file() and single.is_file():
        raise InputError(f"has both {block.name} and {single.name}; keep one of them", where=str(folder))
    if block.is_file():
        return expert_block(read_table(block, _BLOCK))
    if not single.is_file():
        return None
    return SingleExpert(**_curves(single, _EXPERT, "count", EXPERT, {}))


def _serial(path: Path) -> SerialRead | None:
    if not path.is_file():
        return None
    table = read_table(path, _SERIAL)
    if len(table) != 1:
        raise InputError(f"must have one row, has {len(table)}", where=str(path))
    return SerialRead(int(table["from_decodes"][0]), float(table["ns_per_token"][0]))


def write_native(profiles: Sequence[Profile], folder: Path) -> None:
    """Write the degrees of one model on one kind of accelerator as a profile in our format.

    LLMServingSim's fitted table of skew is left out: only its own interpolation reads it.

    Parameters
    ----------
    profiles
        One per tensor-parallel degree, alike in hardware, model and padding.
    folder
        Made if it is absent; files of the same names are replaced.

    Raises
    ------
    InputError
        If the profiles do not belong together.
    """
    heads = [_manifest(profile) for profile in profiles]
    if not heads or any(head != heads[0] for head in heads):
        raise InputError("profiles of one folder must have the same hardware, model, padding and layers left out")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(yaml.safe_dump(heads[0], sort_keys=False, allow_unicode=True), encoding="utf-8")
    for profile in profiles:
        _write_degree(profile, folder / f"tp{profile.tensor_parallel_size}")


def _manifest(profile: Profile) -> dict[str, Any]:
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "hardware": profile.hardware,
        "model": profile.model,
        "token_padding": profile.token_padding,
    }
    host = {"per_step_us": profile.host.per_step_us, "per_request_us": profile.host.per_request_us}
    if any(host.values()):
        manifest["host"] = {name: value for name, value in host.items() if value}
    if profile.gaps_included:
        manifest["gaps_included"] = True
    if isinstance(profile.attention, AdditiveAttention) and profile.attention.context_tile > 1:
        manifest["context_tile"] = profile.attention.context_tile
    if profile.not_measured:
        manifest["not_measured"] = dict(profile.not_measured)
    return manifest


def _write_degree(profile: Profile, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    _write(folder / "dense.csv", _DENSE, _curve_rows(profile.dense))
    _write(folder / "per_sequence.csv", _PER_SEQUENCE, _curve_rows(profile.per_sequence))
    table = profile.attention
    if isinstance(table, JointAttention):
        keys = (table.prefill_chunk, table.kv_prefill, table.num_decodes, table.kv_decode)
        _write(folder / "attention.csv", JOINT, zip(*(key.tolist() for key in keys), _us(table.time_ns), strict=True))
    else:
        _write(folder / "attention_prefill.csv", _PREFILL, _grid_rows(table.prefill))
        _write(folder / "attention_decode.csv", _DECODE, _grid_rows(table.decode))
    if isinstance(profile.experts, ExpertBlock):
        block = profile.experts
        rows = zip(block.tokens.tolist(), block.activated.tolist(), _us(block.time_ns), strict=True)
        _write(folder / "moe.csv", _BLOCK, rows)
    elif profile.experts:
        curves = {name: getattr(profile.experts, name) for name in EXPERT}
        _write(folder / "expert.csv", _EXPERT, _curve_rows(curves))
    if profile.serial:
        row = (profile.serial.from_decodes, profile.serial.ns_per_token)
        _write(folder / "serial_read.csv", _SERIAL, [row])


def _us(time_ns: Iterable[float]) -> list[float]:
    return [float(time) / 1000 for time in time_ns]


def _curve_rows(curves: Mapping[str, Curve]) -> Iterable[Sequence[object]]:
    for layer, curve in curves.items():
        for count, time in zip(curve.counts.tolist(), _us(curve.time_ns), strict=True):
            yield layer, count, time


def _grid_rows(grid: Grid) -> Iterable[Sequence[object]]:
    for first, row in zip(grid.first.tolist(), grid.time_ns, strict=True):
        for second, time in zip(grid.second.tolist(), _us(row), strict=True):
            yield first, second, time


def _write(path: Path, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.name for column in columns])
        writer.writerows(rows)
