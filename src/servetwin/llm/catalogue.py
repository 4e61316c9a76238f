"""The built-in models, one small file each, and loading one by name, file or directory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.fields import Fields, read_document
from servetwin.llm.base import ModelArchitecture
from servetwin.llm.config import read_config

CATALOGUE = Path(__file__).parent / "catalog"


@dataclass(frozen=True, slots=True)
class PublishedParameters:
    """What the publisher prints of a model's size, as it is printed (``"46.7B"``), and where.

    Attributes
    ----------
    total, active
        All parameters, and those that a token meets (None: not stated, or all).
    total_leaves_out, active_leaves_out
        Tensors that the figure does not count.
    total_counts_besides
        What it counts besides the text model, with the number of parameters.
    """

    total: str
    active: str | None
    total_leaves_out: tuple[str, ...]
    active_leaves_out: tuple[str, ...]
    total_counts_besides: dict[str, int]
    source: str


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """One entry of the catalogue.

    ``exact_parameters``: the count of the text model's parameters that ``exact_source`` gives, independent of ours.
    """

    architecture: ModelArchitecture
    aliases: tuple[str, ...]
    exact_parameters: int
    exact_source: str
    published: PublishedParameters


def load_model(
    name_or_path: str | Path, *, relative_to: Path | None = None, where: str | None = None
) -> ModelArchitecture:
    """Return the architecture of a built-in model, of a ``config.json``, or of a directory that holds one.

    Parameters
    ----------
    name_or_path
        A name of `model_names` (or an alias, in any case), or a path.
    relative_to
        The directory from which a relative path counts (that of the scenario file).
    where
        The key's path, for messages.

    Raises
    ------
    InputError
        For an unknown name (with the nearest match), a missing file, or a config that cannot be modelled.
    """
    text = str(name_or_path)
    entry = _find(text)
    if entry is not None:
        return entry.architecture
    path = (relative_to or Path()) / text
    if path.is_dir():
        path /= "config.json"
    if path.is_file():
        return read_config(_with_quantization(read_document(path), path), name=_name_of(path), where=str(path))
    if text.endswith(".json") or text.startswith((".", "/", "~")):
        raise InputError(f"no such file: {path}", where=where)
    raise unknown_name("model", text, model_names(), where=where)


def _with_quantization(config: object, path: Path) -> object:
    """Add what NVIDIA's checkpoints say in a file beside ``config.json``."""
    beside = path.parent / "hf_quant_config.json"
    if not isinstance(config, dict) or config.get("quantization_config") or not beside.is_file():
        return config
    quantization = Fields(read_document(beside), str(beside)).raw("quantization")
    return {**config, "quantization_config": {"quant_method": "modelopt", **_mapping(quantization, beside)}}


def _mapping(value: object, path: Path) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InputError(f"quantization must be a mapping, got {value!r}", where=str(path))
    return value


def model_names() -> list[str]:
    """Return the names of the built-in models, sorted; reads no file."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in CATALOGUE.glob("*/*.yaml"))


def list_models() -> list[CatalogueModel]:
    """Return all built-in models, sorted by name."""
    return [_read(name) for name in model_names()]


@cache
def _read(name: str) -> CatalogueModel:
    path = CATALOGUE / f"{name}.yaml"
    fields = Fields(read_document(path), str(path))
    exact = fields.child("exact_parameters")
    source = fields.text("source")
    return CatalogueModel(
        architecture=read_config(fields.raw("config"), name=name, where=f"{path}: config", source=source),
        aliases=fields.texts("aliases"),
        exact_parameters=exact.integer("count"),
        exact_source=exact.text("source"),
        published=_published(fields.child("published_parameters")),
    )


def _published(fields: Fields) -> PublishedParameters:
    besides = fields.child("total_counts_besides")
    return PublishedParameters(
        total=fields.text("total"),
        active=fields.text("active") if "active" in fields else None,
        total_leaves_out=fields.texts("total_leaves_out"),
        active_leaves_out=fields.texts("active_leaves_out"),
        total_counts_besides={what: besides.integer(what) for what in besides},
        source=fields.text("source"),
    )


def _find(text: str) -> CatalogueModel | None:
    names = model_names()
    if text in names:
        return _read(text)
    wanted = text.casefold()
    for name in names:
        if name.casefold() == wanted:
            return _read(name)
    for name in names:
        entry = _read(name)
        if wanted in (alias.casefold() for alias in entry.aliases):
            return entry
    return None


def _name_of(path: Path) -> str:
    resolved = path.resolve()
    return resolved.parent.name if resolved.stem == "config" else resolved.stem
