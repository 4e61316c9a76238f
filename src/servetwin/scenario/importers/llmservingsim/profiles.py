"""Where the profile of an instance lies, and whether its architecture is one that servetwin reads."""

from __future__ import annotations

from pathlib import Path

from servetwin.core.errors import InputError
from servetwin.core.fields import read_document
from servetwin.core.number_formats import number_format
from servetwin.llm.base import ModelArchitecture
from servetwin.scenario.importers.llmservingsim.cluster import LssInstance
from servetwin.step.profile.folders import degree_folder
from servetwin.step.profile.layers import DENSE, PER_SEQUENCE

INSTEAD = ". With --step roofline the times are worked out from the model's config and the device's data sheet"
"""What to do without a profile."""


def find_profile(root: Path, instance: LssInstance, *, dtype: str, kv_cache_dtype: str) -> Path:
    """Return the folder of the instance's profile: a variant's in the current format, the model's in the older one.

    Raises
    ------
    InputError
        If there is none; it names what exists.
    """
    hardware = root / instance.hardware
    if not hardware.is_dir():
        raise InputError(
            f"no profile of hardware {instance.hardware!r} under {root}; there are: {_names(root)}{INSTEAD}",
            where=f"{instance.where}.hardware",
        )
    model = hardware / instance.model_name
    if not model.is_dir():
        known = sorted(f"{path.parent.name}/{path.name}" for path in hardware.glob("*/*") if path.is_dir())
        raise InputError(
            f"no profile of {instance.model_name!r} on {instance.hardware} under {root}; "
            f"there are: {', '.join(known) or 'none'}{INSTEAD}",
            where=f"{instance.where}.model_name",
        )
    folder = model if any(model.glob("tp*/layers.csv")) else _variant(model, instance, dtype, kv_cache_dtype)
    try:
        degree_folder(folder, instance.tensor_parallel_size)
    except InputError as error:
        raise InputError(f"{error}{INSTEAD}", where=instance.where) from None
    return folder


def _variant(model: Path, instance: LssInstance, dtype: str, kv_cache_dtype: str) -> Path:
    variant = number_format(dtype)
    if kv_cache_dtype != "auto":
        variant += f"-kv{number_format(kv_cache_dtype)}"
    if not (model / variant).is_dir():
        raise InputError(
            f"no profile of variant {variant!r} (dtype {dtype}, kv_cache_dtype {kv_cache_dtype}) in {model}; "
            f"there are: {_names(model)}",
            where=instance.where,
        )
    return model / variant


def _names(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())) if folder.is_dir() else "none"


def check_architecture(folder: Path, model: ModelArchitecture) -> None:
    """Refuse a model whose architecture file is missing, or names layers that servetwin would leave out.

    Raises
    ------
    InputError
        With the file and the layer.
    """
    path = folder / f"{model.model_type}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in folder.glob("*.yaml"))) or "none"
        message = f"no architecture {model.model_type!r} for {model.name}; there are: {known}"
        raise InputError(message, where=str(folder))
    known_layers = {*DENSE, *PER_SEQUENCE, "attention"}
    for group, layers in _catalog(path).items():
        for layer in layers:
            if layer not in known_layers:
                message = f"layer {layer!r} is not modelled; layers that are: {', '.join(sorted(known_layers))}"
                raise InputError(message, where=f"{path}: catalog.{group}")


def _catalog(path: Path) -> dict[str, list[str]]:
    """Return the layers of an architecture file by group; ``moe`` is left to the sequence that would use it."""
    document = read_document(path)
    catalog = document.get("catalog") if isinstance(document, dict) else None
    if not isinstance(catalog, dict) or not all(isinstance(group, dict) for group in catalog.values()):
        raise InputError("needs a catalog: groups of layers", where=str(path))
    return {str(group): [str(layer) for layer in layers] for group, layers in catalog.items()}
