"""``servetwin list``: what there is to name in a scenario."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from servetwin.cli.options import Json
from servetwin.core.errors import unknown_name
from servetwin.core.registry import Registry

if TYPE_CHECKING:
    from servetwin.hardware.base import DeviceLink

Row = dict[str, Any]


def mount(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("list")(list_names)


def list_names(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="What to list; without it, the kinds.")] = None,
    as_json: Json = False,
) -> None:
    """List what can be named in a scenario."""
    if kind is not None and kind not in LISTS:
        raise unknown_name("list", kind, LISTS, where="servetwin list")
    rows = LISTS[kind]() if kind else [{"kind": name} for name in LISTS]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from servetwin.cli.console import print_table

    print_table(rows)


def _models() -> list[Row]:
    from servetwin.llm.catalogue import list_models
    from servetwin.llm.reference import model_row

    return [model_row(entry) for entry in list_models()]


def _hardware() -> list[Row]:
    from servetwin.core.units import GB, GIB
    from servetwin.hardware.catalogue import list_devices

    return [
        {
            "name": device.name,
            "vendor": device.vendor,
            "memory_gib": round(device.memory_bytes / GIB, 1),
            "bandwidth_gb_per_s": round(device.memory_bandwidth_bytes_per_s / GB),
            "idle_w": device.idle_w,
            "limit_w": device.limit_w,
            "scale_up": _link(device.scale_up),
            "pcie": _link(device.pcie),
            "launch": device.launch.name,
            "peak_dense_tflops": {name: round(peak / 1e12, 1) for name, peak in device.peak_flops.items()},
        }
        for device in list_devices()
    ]


def _pim() -> list[Row]:
    from servetwin.core.units import GB, GIB
    from servetwin.hardware.pim import load_pim_device, pim_device_names

    return [
        {
            "name": device.name,
            "capacity_gib": device.capacity_bytes / GIB,
            "channels": device.channels,
            "internal_gb_per_s": round(device.internal_bytes_per_s / GB),
            "pins_gb_per_s": round(device.channels * device.external_bytes_per_s / GB),
            "gflops": round(device.flops_per_channel * device.channels / 1e9),
            "link_gb_per_s": device.link_bytes_per_s / GB,
        }
        for device in map(load_pim_device, pim_device_names())
    ]


def _link(link: DeviceLink | None) -> str | None:
    return None if link is None else f"{link.link_class} {link.bandwidth_bytes_per_s / 1e9:g} GB/s"


def _links() -> list[Row]:
    from servetwin.core.units import GB, NS_PER_US
    from servetwin.network.links import LINK_CLASSES

    return [
        {
            "name": entry.name,
            "gb_per_s": entry.link.bandwidth_bytes_per_s / GB,
            "message_us": entry.link.latency_ns / NS_PER_US,
            "operation_us": entry.link.operation_ns / NS_PER_US,
            "source": entry.source,
        }
        for entry in LINK_CLASSES.values()
    ]


def _registry(find: Callable[[], Registry[Any]]) -> Callable[[], list[Row]]:
    def rows() -> list[Row]:
        registry = find()
        return [{"name": name, "what": _first_line(registry.get(name))} for name in registry.names()]

    return rows


def _first_line(factory: Callable[..., object]) -> str:
    return (factory.__doc__ or "").strip().split("\n")[0].replace("``", "")


def _routers() -> Registry[Any]:
    from servetwin.cluster import routers as _  # noqa: F401  (registers the built-in ones)
    from servetwin.cluster.base import routers

    return routers


def _schedulers() -> Registry[Any]:
    from servetwin.engine import schedulers as _  # noqa: F401
    from servetwin.engine.base import schedulers

    return schedulers


def _orderings() -> Registry[Any]:
    from servetwin.engine import orderings as _  # noqa: F401
    from servetwin.engine.base import orderings

    return orderings


def _step_models() -> Registry[Any]:
    from servetwin.scenario.step_models import step_models

    return step_models


def _collectives() -> Registry[Any]:
    from servetwin.network import collectives as _  # noqa: F401
    from servetwin.network.base import collectives

    return collectives


def _execution_plans() -> Registry[Any]:
    from servetwin.step import plans as _  # noqa: F401
    from servetwin.step.plans.base import execution_plans

    return execution_plans


def _expert_routings() -> Registry[Any]:
    from servetwin.step import experts as _  # noqa: F401
    from servetwin.step.experts.base import expert_routings

    return expert_routings


def _evictions() -> Registry[Any]:
    from servetwin.memory.tiers import evictions

    return evictions


def _topologies() -> list[Row]:
    from servetwin.network.presets import PRESETS

    return [
        {"name": preset.name, "accelerators": preset.size, "links": preset.link, "kind": preset.kind}
        for preset in PRESETS.values()
    ]


def _workloads() -> list[Row]:
    from servetwin.scenario.workload_field import BUILT_IN_OPTIONS
    from servetwin.workload.base import workload_sources

    built_in = [{"name": name, "what": _first_line(options)} for name, options in BUILT_IN_OPTIONS.items()]
    plugins = _registry(lambda: workload_sources)()
    return built_in + [row for row in plugins if row["name"] not in BUILT_IN_OPTIONS]


LISTS: dict[str, Callable[[], list[Row]]] = {
    "models": _models,
    "hardware": _hardware,
    "pim": _pim,
    "links": _links,
    "evictions": _registry(_evictions),
    "topologies": _topologies,
    "routers": _registry(_routers),
    "schedulers": _registry(_schedulers),
    "orderings": _registry(_orderings),
    "step-models": _registry(_step_models),
    "collectives": _registry(_collectives),
    "execution-plans": _registry(_execution_plans),
    "expert-routings": _registry(_expert_routings),
    "workloads": _workloads,
}
