"""Importer of LLMServingSim's older profile bundles: ``<hardware>/<model>/tp<N>/{layers.csv, predictions/*.csv}``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from servetwin.step.host import NO_HOST_OVERHEAD, HostOverhead
from servetwin.step.profile.csv_table import Column, read_table
from servetwin.step.profile.curves import complete_grid, curves_by_layer
from servetwin.step.profile.folders import degree_folder, degrees
from servetwin.step.profile.layers import MLP, check_layers
from servetwin.step.profile.tables import AdditiveAttention, Curve, Grid, Profile, SingleExpert

CONTEXT_TILE = 64
"""Contexts are rounded up to this in these tables."""

TPU_HOST_OVERHEAD = HostOverhead(per_step_us=200.0)
"""Of vLLM on a TPU v6e, from the time per output token of one run. Times of GPUs in this format were taken with events
around each layer and hold the gaps between kernels already."""

_LAYERS = (Column("layer_name", "text"), Column("input", "count", 1), Column("latency(ns)", "ns"))
_PREFILL = (Column("kv_cache_size", "count"), Column("prefill_chunk_size", "count", 1), Column("prediction", "ns"))
_DECODE = (Column("batch_size", "count", 1), Column("kv_cache_size", "count"), Column("prediction", "ns"))

_SUMS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_RENAMED = {"rope": "rotary_emb"}
_KEPT = ("embedding", "o_proj", "act_fn", "down_proj", "final_layernorm", "lm_head")
_MATRICES = ("expert.w1", "expert.w3", "expert.w2")
_OF_EXPERTS = {"gate", *_MATRICES, "act_fn"}
_NORMS = ("input_layernorm", "post_layernorm")
_FUSED_ON_TPU = frozenset({"k_proj", "v_proj"})


def is_lss_v0(folder: Path) -> bool:
    """Return whether ``folder`` is the model folder of such a bundle."""
    return any((degree / "layers.csv").is_file() for degree in degrees(folder).values())


def read_lss_v0(folder: Path, tensor_parallel_size: int) -> Profile:
    """Read one tensor-parallel degree of a bundle.

    Projections are summed (q + k + v, gate + up) and the two norms of a block averaged. On a TPU some layers are fused
    into others or were not measured; that is allowed there, and said. LM head times are taken over sequences. A mixture
    of experts has ``gate`` and one expert's matrices, whole at every degree.

    Raises
    ------
    InputError
        For a degree, file, layer, column or value that is missing or wrong.
    """
    own = degree_folder(folder, tensor_parallel_size)
    hardware = _hardware(folder)
    tpu = hardware.upper().startswith("TPU")
    path = own / "layers.csv"
    layers = curves_by_layer(read_table(path, _LAYERS, extra=True), "layer_name", "input", "latency(ns)")
    experts = _experts(layers)
    _check(layers, path, tpu)
    dense, notices = _canonical(layers)
    not_measured = {"sampler": "this format has none"}
    if tpu and not experts and len(dense["act_fn"].counts) == 1:
        del dense["act_fn"]
        not_measured["act_fn"] = "fused into the layers around it on TPU"
    return Profile(
        hardware=hardware,
        model=f"{folder.parent.name}/{folder.name}",
        tensor_parallel_size=tensor_parallel_size,
        dense=dense,
        per_sequence={"lm_head": dense.pop("lm_head")},
        attention=AdditiveAttention(
            _grid(own / "predictions" / "attn_prefill_predictions.csv", _PREFILL),
            _grid(own / "predictions" / "attn_decode_predictions.csv", _DECODE),
            CONTEXT_TILE,
        ),
        experts=experts,
        token_padding="power_of_two" if tpu else "none",
        host=TPU_HOST_OVERHEAD if tpu else NO_HOST_OVERHEAD,
        gaps_included=not tpu,
        source=str(folder),
        not_measured=not_measured,
        notices=tuple(notices),
    )


def _hardware(folder: Path) -> str:
    return folder.resolve().parent.parent.name


def _experts(layers: dict[str, Curve]) -> SingleExpert | None:
    """Return one expert's times where all its layers are there; None for a dense model."""
    if not set(layers) >= _OF_EXPERTS:
        return None
    matrices, _ = _sum([layers[name] for name in _MATRICES])
    return SingleExpert(layers["gate"], matrices, layers["act_fn"])


def _is_moe(layers: dict[str, Curve]) -> bool:
    return any(name.startswith("expert.") for name in layers)


def _check(layers: dict[str, Curve], path: Path, tpu: bool) -> None:
    wanted = [name for parts in _SUMS.values() for name in parts] + [*_NORMS, *_RENAMED, *_KEPT]
    if _is_moe(layers):
        wanted = [name for name in wanted if name not in ("gate_proj", "up_proj", "down_proj")] + sorted(_OF_EXPERTS)
    if tpu and not _FUSED_ON_TPU & set(layers):
        wanted = [name for name in wanted if name not in _FUSED_ON_TPU]
    check_layers(layers, wanted, str(path))


def _canonical(layers: dict[str, Curve]) -> tuple[dict[str, Curve], list[str]]:
    """Return the layers by our names, and what there is to say about them; an MLP only where there are no experts."""
    moe = _is_moe(layers)
    kept = [name for name in _KEPT if not (moe and name in MLP)]
    sums = {name: parts for name, parts in _SUMS.items() if not (moe and name in MLP)}
    dense = {name: layers[name] for name in kept} | {new: layers[old] for old, new in _RENAMED.items()}
    notices: list[str] = []
    for name, parts in sums.items():
        present = [part for part in parts if part in layers]
        notices += [f"layer {part} has no rows: it is fused into {parts[0]}" for part in parts if part not in layers]
        dense[name], late = _sum([layers[part] for part in present])
        notices += [f"layer {present[i]} has no rows below {at} tokens: its first row holds there" for i, at in late]
    norms, _ = _sum([layers[name] for name in _NORMS])
    dense["layernorm"] = Curve(norms.counts, norms.time_ns / 2)
    return dense, notices


def _sum(curves: list[Curve]) -> tuple[Curve, list[tuple[int, int]]]:
    """Return the sum of curves over all their counts, and (number, first count) of those that start late."""
    counts = curves[0].counts
    for curve in curves[1:]:
        counts = np.union1d(counts, curve.counts)
    total = sum(np.interp(counts, curve.counts, curve.time_ns) for curve in curves)
    late = [(i, int(curve.counts[0])) for i, curve in enumerate(curves) if curve.counts[0] > counts[0]]
    return Curve(counts, np.asarray(total, dtype=np.float64)), late


def _grid(path: Path, columns: tuple[Column, Column, Column]) -> Grid:
    first, second, times = (column.name for column in columns)
    return complete_grid(read_table(path, columns), first, second, times)
