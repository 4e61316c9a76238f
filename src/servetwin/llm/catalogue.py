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
class CatalogueModel:
    """One entry of the catalogue.

    ``published_parameters``: the exact parameter count that its publisher states, from ``published_source``.
    """

    architecture: ModelArchitecture
    aliases: tuple[str, ...]
    published_parameters: int
    published_source: str


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
    published = fields.child("published_parameters")
    source = fields.text("source")
    return CatalogueModel(
        architecture=read_config(fields.raw("config"), name=name, where=f"{path}: config", source=source),
        aliases=fields.texts("aliases"),
        published_parameters=published.integer("count"),
        published_source=published.text("source"),
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
