"""Importer of LLMServingSim's profile bundles: ``<hardware>/<model>/<variant>/{meta.yaml, tp<N>/*.csv}``."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from servetwin.core.errors import InputError
from servetwin.core.fields import read_document
from servetwin.step.profile.csv_table import Column, read_table
from servetwin.step.profile.curves import curves_by_layer, expert_block, joint_attention
from servetwin.step.profile.folders import degree_folder, degrees
from servetwin.step.profile.layers import DENSE, PER_SEQUENCE, TP_STABLE, WITHOUT_MLP, check_layers
from servetwin.step.profile.lss_serial import read_serial
from servetwin.step.profile.options import VLLM_HOST_OVERHEAD
from servetwin.step.profile.tables import Bins, Curve, ExpertBlock, Profile, SkewTable

_DENSE = (Column("layer", "text"), Column("tokens", "count", 1), Column("time_us", "us"))
_PER_SEQUENCE = (Column("layer", "text"), Column("sequences", "count", 1), Column("time_us", "us"))
_ATTENTION = (
    Column("prefill_chunk", "count"),
    Column("kv_prefill", "count"),
    Column("n_decode", "count"),
    Column("kv_decode", "count"),
    Column("time_us", "us"),
)
_EXPERTS = (Column("tokens", "count", 1), Column("activated_experts", "count", 1), Column("time_us", "us"))
_SKEW = (
    Column("pc", "count"),
    Column("n_label", "text"),
    Column("skew_rate_label", "text"),
    Column("kv_big_label", "text"),
    Column("kp_label", "text"),
    Column("alpha", "number"),
)


def is_lss_v1(folder: Path) -> bool:
    """Return whether ``folder`` is the variant folder of such a bundle."""
    return (folder / "meta.yaml").is_file()


def read_lss_v1(folder: Path, tensor_parallel_size: int) -> Profile:
    """Read one tensor-parallel degree of a bundle.

    Experts (``moe.csv``) are measured whole, in the folder of degree 1, and stand for every degree. The deployment is
    taken to run with CUDA graphs, as vLLM does by default (the profiler itself runs without).

    Raises
    ------
    InputError
        For a degree, file, layer, column or value that is missing or wrong.
    """
    meta = _mapping(read_document(folder / "meta.yaml"), str(folder / "meta.yaml"))
    own = degree_folder(folder, tensor_parallel_size)
    whole = degrees(folder).get(1, own)
    experts = _experts(own, whole)
    return Profile(
        hardware=str(meta.get("hardware", "")),
        model=str(meta.get("model", "")),
        tensor_parallel_size=tensor_parallel_size,
        dense=_curves(own, whole, "dense.csv", _DENSE, "tokens", WITHOUT_MLP if experts else DENSE),
        per_sequence=_curves(own, whole, "per_sequence.csv", _PER_SEQUENCE, "sequences", PER_SEQUENCE),
        attention=joint_attention(read_table(own / "attention.csv", _ATTENTION)),
        experts=experts,
        skew=_skew(meta, folder, tensor_parallel_size),
        serial=read_serial(own / "skew.csv", meta, tensor_parallel_size) if (own / "skew.csv").is_file() else None,
        token_padding="cuda_graph",
        host=VLLM_HOST_OVERHEAD,
        source=str(folder),
    )


def _curves(
    own: Path, whole: Path, name: str, columns: tuple[Column, ...], counts: str, wanted: tuple[str, ...]
) -> dict[str, Curve]:
    """Read one table; layers that every rank computes whole come from the ``tp1`` folder where there is one."""
    curves = curves_by_layer(read_table(own / name, columns), "layer", counts, "time_us")
    check_layers(curves, wanted, str(own / name))
    if whole != own:
        stable = curves_by_layer(read_table(whole / name, columns), "layer", counts, "time_us")
        curves |= {layer: curve for layer, curve in stable.items() if layer in TP_STABLE}
    return curves


def _experts(own: Path, whole: Path) -> ExpertBlock | None:
    """Read the experts of this degree's folder, else of degree 1; None for a dense model."""
    path = next((path for path in (own / "moe.csv", whole / "moe.csv") if path.is_file()), None)
    return expert_block(read_table(path, _EXPERTS)) if path else None


def _mapping(value: object, where: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise InputError("expected a mapping of keys to values", where=where)
    return value


def _skew(meta: Mapping[Any, Any], folder: Path, tensor_parallel_size: int) -> SkewTable | None:
    where = f"{folder / 'meta.yaml'}: skew_fit"
    fit = _mapping(meta.get("skew_fit") or {}, where)
    if not fit.get("enabled"):
        return None
    axes = _mapping(fit.get("bucket_axes"), f"{where}.bucket_axes")
    per_degree = _mapping(fit.get("per_tp") or {}, f"{where}.per_tp")
    own = _mapping(per_degree.get(tensor_parallel_size) or {}, f"{where}.per_tp.{tensor_parallel_size}")
    default = own.get("alpha_default", fit.get("alpha_default", 0.0))
    if not isinstance(default, int | float) or not -1e6 < default < 1e6:
        raise InputError(f"must be a number, got {default!r}", where=f"{where}.alpha_default")
    path = folder / str(own.get("bucket_table", f"tp{tensor_parallel_size}/skew_fit.csv"))
    return SkewTable(
        n=_bins(axes, "n", where),
        skew_rate=_bins(axes, "skew_rate", where),
        kv_max=_bins(axes, "kv_big", where),
        kv_prefill=_bins(axes, "kp", where),
        alpha=_alphas(path),
        default=float(default),
    )


def _bins(axes: Mapping[Any, Any], axis: str, where: str) -> Bins:
    edges, labels = axes.get(f"{axis}_bins"), axes.get(f"{axis}_labels")
    place = f"{where}.bucket_axes.{axis}_bins"
    if not isinstance(edges, list) or not isinstance(labels, list) or len(edges) != len(labels) + 1 or not labels:
        raise InputError("must be a list of edges, one more than there are labels", where=place)
    if not all(isinstance(edge, int | float) for edge in edges) or any(a >= b for a, b in pairwise(edges)):
        raise InputError("edges must be numbers that ascend", where=place)
    return Bins(tuple(map(float, edges)), tuple(map(str, labels)))


def _alphas(path: Path) -> dict[tuple[int, str, str, str, str], float]:
    table = read_table(path, _SKEW, extra=True)
    columns = [table[column.name].tolist() for column in _SKEW]
    return {(pc, n, rate, big, kp): alpha for pc, n, rate, big, kp, alpha in zip(*columns, strict=True)}
