"""``servetwin import``: other tools' configurations as scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from servetwin.cli.options import Force


def mount(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(help="Turn another tool's configuration into a scenario.", no_args_is_help=True)
    group.command("llmservingsim")(llmservingsim)
    app.add_typer(group, name="import")


def _flag(*names: str, help_text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*names, help=help_text, rich_help_panel="LLMServingSim's run flags")
    return option


def llmservingsim(
    profiles: Annotated[Path, typer.Option(metavar="DIR", help="Root of <hardware>/<model>/... profiles.")],
    scenario: Annotated[Path, typer.Option("--scenario", "-o", metavar="SCENARIO.yaml", help="Where to write it.")],
    cluster: Annotated[
        Path | None, typer.Option("--cluster", "--cluster-config", metavar="FILE.json", help="Cluster file.")
    ] = None,
    workload: Annotated[
        Path | None, typer.Option("--workload", "--dataset", metavar="FILE.jsonl", help="Workload file.")
    ] = None,
    models: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Root of <model>.json; default: the built-in catalogue.")
    ] = None,
    architectures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of <model_type>.yaml, checked for unknown layers.")
    ] = None,
    pim_configs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of <pim_config>.ini; default: ../pim of the file."),
    ] = None,
    mode: Annotated[
        Literal["lss", "default"], typer.Option(help="lss: compute as LLMServingSim does, defects included.")
    ] = "default",
    kv_capacity: Annotated[
        Literal["lss", "auto"],
        typer.Option(help="lss: by its formula from mem_size and mem_util; auto: from the device's memory, as vLLM."),
    ] = "lss",
    step: Annotated[
        Literal["profile", "roofline"],
        typer.Option(help="profile: measured times; roofline: from config and data sheet, without a profile."),
    ] = "profile",
    max_num_seqs: Annotated[int | None, _flag("--max-num-seqs", "--max-batch", help_text="0: unlimited.")] = None,
    max_num_batched_tokens: Annotated[
        int | None, _flag("--max-num-batched-tokens", help_text="0: the context length.")
    ] = None,
    long_prefill_token_threshold: Annotated[
        int | None, _flag("--long-prefill-token-threshold", help_text="0: off.")
    ] = None,
    dtype: Annotated[str | None, _flag("--dtype", help_text="Of the weights; names the profile's variant.")] = None,
    kv_cache_dtype: Annotated[str | None, _flag("--kv-cache-dtype", help_text="auto or fp8.")] = None,
    request_routing_policy: Annotated[
        str | None, _flag("--request-routing-policy", help_text="LOAD, RR or RAND.")
    ] = None,
    expert_routing_policy: Annotated[
        str | None, _flag("--expert-routing-policy", help_text="BALANCED, RR or RAND; no effect on dense models.")
    ] = None,
    enable_block_copy: Annotated[
        bool | None, _flag("--enable-block-copy/--no-enable-block-copy", help_text="Ignored: a shortcut of its own.")
    ] = None,
    enable_prefix_caching: Annotated[
        bool | None, _flag("--enable-prefix-caching/--no-enable-prefix-caching", help_text="As vLLM's.")
    ] = None,
    enable_chunked_prefill: Annotated[
        bool | None, _flag("--enable-chunked-prefill/--no-enable-chunked-prefill", help_text="As vLLM's.")
    ] = None,
    reserve_full_isl: Annotated[
        bool | None, _flag("--reserve-full-isl/--no-reserve-full-isl", help_text="vLLM's scheduler_reserve_full_isl.")
    ] = None,
    npu_memory_utilization: Annotated[
        float | None, _flag("--npu-memory-utilization", help_text="Part of mem_size for weights and KV.")
    ] = None,
    block_size: Annotated[int | None, _flag("--block-size", help_text="Tokens per KV block.")] = None,
    num_reqs: Annotated[int | None, _flag("--num-reqs", "--num-req", help_text="Lines to read; 0: all.")] = None,
    log_interval: Annotated[float | None, _flag("--log-interval", help_text="Interval of the timeline, s.")] = None,
    enable_prefix_sharing: Annotated[
        bool, _flag("--enable-prefix-sharing", help_text="One tier for a node (CPU) or the cluster (CXL).")
    ] = False,
    prefix_storage: Annotated[
        str | None, _flag("--prefix-storage", help_text="None, CPU or CXL: KV tier below the device.")
    ] = None,
    enable_local_offloading: Annotated[bool, _flag("--enable-local-offloading", help_text="Refused.")] = False,
    enable_attn_offloading: Annotated[
        bool | None, _flag("--enable-attn-offloading", help_text="Attention of decodes in memory (pim_config).")
    ] = None,
    enable_sub_batch_interleaving: Annotated[
        bool | None, _flag("--enable-sub-batch-interleaving", help_text="Half batches in turns; needs the former.")
    ] = None,
    skip_prefill: Annotated[bool, _flag("--skip-prefill", help_text="Refused: inert in LLMServingSim.")] = False,
    network_backend: Annotated[str | None, _flag("--network-backend", help_text="analytical; ns3 is refused.")] = None,
    output: Annotated[Path | None, _flag("--output", help_text="Ignored.")] = None,
    run_id: Annotated[str | None, _flag("--run-id", help_text="Ignored.")] = None,
    inputs_root: Annotated[Path | None, _flag("--inputs-root", help_text="Ignored.")] = None,
    cleanup_inputs: Annotated[bool | None, _flag("--cleanup-inputs/--no-cleanup-inputs", help_text="Ignored.")] = None,
    log_level: Annotated[str | None, _flag("--log-level", help_text="Ignored.")] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy profiles, workload and model files to <scenario>-files/.")
    ] = False,
    force: Force = False,
) -> None:
    """Turn a cluster file, a workload and run flags of LLMServingSim into a scenario."""
    from servetwin.core.errors import InputError
    from servetwin.scenario.importers.llmservingsim import LssFlags, LssSource, write_scenario

    if cluster is None or workload is None:
        missing = "--cluster" if cluster is None else "--workload"
        raise InputError("a file is needed; LLMServingSim's own default is not built in", where=missing)
    flags = LssFlags(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        long_prefill_token_threshold=long_prefill_token_threshold,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        request_routing_policy=request_routing_policy,
        expert_routing_policy=expert_routing_policy,
        enable_block_copy=enable_block_copy,
        enable_prefix_caching=enable_prefix_caching,
        enable_chunked_prefill=enable_chunked_prefill,
        enable_prefix_sharing=enable_prefix_sharing,
        prefix_storage=prefix_storage,
        enable_local_offloading=enable_local_offloading,
        enable_attn_offloading=enable_attn_offloading,
        enable_sub_batch_interleaving=enable_sub_batch_interleaving,
        reserve_full_isl=reserve_full_isl,
        npu_memory_utilization=npu_memory_utilization,
        block_size=block_size,
        num_reqs=num_reqs,
        skip_prefill=skip_prefill,
        network_backend=network_backend,
        log_interval=log_interval,
        output=output,
        run_id=run_id,
        inputs_root=inputs_root,
        cleanup_inputs=cleanup_inputs,
        log_level=log_level,
    )
    source = LssSource(cluster, workload, profiles, models, architectures, flags, mode, kv_capacity, step, pim_configs)
    imported = write_scenario(source, scenario, force=force, copy=copy)
    for notice in imported.notices:
        typer.echo(f"note: {notice}", err=True)
    typer.echo(f"wrote {scenario}; next: servetwin run {scenario}")
