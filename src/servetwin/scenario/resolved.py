"""What a run writes down of its scenario: every key with its value, what followed from it, and a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from servetwin.core.fields import read_document
from servetwin.scenario.attention_ffn import ffn_facts
from servetwin.scenario.build import Deployment
from servetwin.scenario.disaggregation import disaggregation_facts
from servetwin.scenario.hardware import Replica
from servetwin.scenario.load import RESOLVED, LoadedScenario


def scenario_hash(loaded: LoadedScenario) -> str:
    """Return a hash of all that decides a run: the scenario with its defaults, and the content of the files it names.

    Where the files lie does not count, so that the same scenario in another folder has the same hash.
    """
    content = loaded.scenario.model_dump(mode="json")
    _replace_paths(content, loaded.folder)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_FILES = ("path", "model", "device", "table", "tables", "host_device")
"""Keys that may name files."""


def _replace_paths(value: Any, folder: Path) -> None:
    """Put digests in place of the files and folders that keys called as `_FILES` name, with the tables of a device."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _FILES and isinstance(item, str) and (folder / item).exists():
                value[key] = _digest(folder / item) + "".join(map(_digest, _tables_of(folder / item)))
            else:
                _replace_paths(item, folder)
    elif isinstance(value, list):
        for item in value:
            _replace_paths(item, folder)


def _tables_of(path: Path) -> list[Path]:
    """Return the operator tables that a device's file names, those that are there."""
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return []
    document = read_document(path)
    sources = document.get("operators") if isinstance(document, dict) else None
    named = sources.get("tables", []) if isinstance(sources, dict) else []
    names = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    return [path.parent / str(name) for name in names if (path.parent / str(name)).is_file()]


def _digest(path: Path) -> str:
    """Return a digest of a file, or of all files below a folder, by their names and contents."""
    digest = hashlib.sha256()
    for file, name in _files(path):
        status = file.stat()
        digest.update(f"{name}\0{_file_digest(file, status.st_size, status.st_mtime_ns)}\0".encode())
    return f"sha256:{digest.hexdigest()}"


@lru_cache(maxsize=4096)
def _file_digest(file: Path, size: int, changed_ns: int) -> str:
    """Return the digest of a file's content; size and time of change make a changed file another key."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    if path.is_file():
        yield path, ""
    else:
        yield from ((file, file.relative_to(path).as_posix()) for file in sorted(path.rglob("*")) if file.is_file())


def resolved_yaml(deployment: Deployment) -> str:
    """Return the scenario with all defaults filled in, and the facts that followed, as YAML.

    It is a scenario itself; the facts stand under ``resolved`` and are skipped when it is read.
    """
    settings = deployment.scenario.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=120)
    facts = yaml.safe_dump({RESOLVED: resolved_facts(deployment)}, sort_keys=False, allow_unicode=True, width=120)
    return f"{text}\n# What followed from it (not settings: skipped when this file is read)\n{facts}"


def resolved_facts(deployment: Deployment) -> dict[str, Any]:
    """Return the facts that followed from a scenario."""
    workload, apart = deployment.workload, deployment.disaggregation_options
    return {
        "scenario_hash": scenario_hash(deployment.loaded),
        "workload": {
            "source": workload.source,
            "requests": len(workload),
            "prompt_tokens": int(workload.prompt_tokens.sum()),
            "output_tokens": int(workload.output_tokens.sum()),
        },
        "notices": deployment.notices,
        "pools": {replica.pool.name: _pool_facts(replica) for replica in deployment.replicas},
        **({} if apart is None else {"disaggregation": disaggregation_facts(apart, deployment.replicas)}),
    }


def _pool_facts(replica: Replica) -> dict[str, Any]:
    engine = replica.engine
    blocks = replica.num_gpu_blocks - 1
    facts: dict[str, Any] = {
        "device": replica.device_name or None,
        "accelerators": replica.pool.replicas * engine.accelerators,
        "max_num_seqs": engine.num_sequences,
        "max_model_len": replica.max_model_len,
        "kv_blocks": blocks,
        "kv_tokens": blocks * engine.block_size,
        "kv_bytes": blocks * replica.kv_bytes_per_block,
        "weight_bytes": replica.weight_bytes,
    }
    memory = replica.memory_facts
    if memory:
        facts["memory_bytes_per_accelerator"] = memory
    if replica.part == "attention":
        facts["ffn"] = ffn_facts(replica)
    if replica.has_model:
        model = replica.model
        facts["model"] = {
            "name": model.name,
            "parameters": model.num_parameters,
            "num_hidden_layers": model.num_hidden_layers,
            "hidden_size": model.hidden_size,
            "num_attention_heads": model.num_attention_heads,
            "num_key_value_heads": model.num_key_value_heads,
            "max_position_embeddings": model.max_position_embeddings,
            "dtype": model.dtype,
        }
    return facts
