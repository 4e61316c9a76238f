"""Writes ``docs/scenario.md``, every key of a scenario, from the schema: ``make docs``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel

from servetwin.cluster import routers as _routers  # noqa: F401  (registers the built-in ones)
from servetwin.cluster.base import routers
from servetwin.core.registry import Registry
from servetwin.network.base import collectives
from servetwin.scenario.collectives import COLLECTIVE_CONTEXT
from servetwin.scenario.parallel import EXPERT_CONTEXT
from servetwin.scenario.plans import PLAN_CONTEXT
from servetwin.scenario.reference_text import (
    default_text,
    meanings,
    models_in,
    parameter_meanings,
    summary_of,
    type_text,
)
from servetwin.scenario.schema import Scenario
from servetwin.scenario.step_models import CONTEXT, step_models
from servetwin.step.experts.base import expert_routings
from servetwin.step.plans.base import execution_plans

HEAD = """\
# The scenario file

<!-- Written by `make docs` from the schema: edit the schema, not this page. -->

A scenario is one YAML file. `servetwin init` writes a commented one, `servetwin check FILE` reads and resolves one, and
`--set path.to.key=value` changes a value from the command line (`--set cluster.chat.engine.max_num_seqs=128`: a pool is
found by its name). Unknown keys, NaN, infinities, sizes out of bounds and keys that stand twice are errors that name
the file, the line, the key's path, what was given and what is allowed. Relative paths count from the scenario's folder.
Numbers are YAML 1.2's (`1e6` is a whole one), and text is never taken for a number.

From Python a scenario may be a mapping in which a router, scheduler, ordering, step model, collective or workload
stands as an object instead of a name: `servetwin.simulate({..., "router": MyRouter()})`.

A run writes `resolved.yaml`: the scenario with every default filled in, and below `resolved` what followed from it
(blocks, weights, the model's sizes). It can be run like any other scenario; `resolved` is then skipped.
"""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, *_sections(Scenario, "", set())]
    parts += _implementations("Options of routers", "router", routers, {"seed"})
    parts += _implementations("Options of step models", "cluster[].step", step_models, set(CONTEXT))
    parts += _implementations("Options of collectives", "cluster[].step.collective", collectives, COLLECTIVE_CONTEXT)
    parts += _implementations("Options of execution plans", "cluster[].step.plan", execution_plans, set(PLAN_CONTEXT))
    parts += _implementations("Options of expert routings", "cluster[].step.experts", expert_routings, EXPERT_CONTEXT)
    return "\n".join(parts)


def _sections(model: type[BaseModel], path: str, done: set[type[BaseModel]]) -> Iterator[str]:
    """Yield the section of a model, then those of the models in it."""
    if model in done:
        return
    done.add(model)
    yield f"## {f'`{path}`' if path else 'Top level'}\n\n{summary_of(model)}\n"
    yield _table(_rows(model))
    for name, field in model.model_fields.items():
        inner = list(models_in(field.annotation))
        item = "[]" if "list of" in type_text(field.annotation) else ""
        for other in inner:
            kind = other.model_fields.get("kind")
            tag = f" ({default_text(kind).strip('`')})" if len(inner) > 1 and kind is not None else ""
            yield from _sections(other, f"{path}.{name}{item}{tag}".lstrip("."), done)


def _rows(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    said = meanings(model)
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] != "kind"):
        yield name, type_text(field.annotation, tuple(field.metadata)), default_text(field), said[name]


def _table(rows: Iterator[tuple[str, str, str, str]]) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {kind} | {default} | {meaning} |" for name, kind, default, meaning in rows]
    return "\n".join(lines) + "\n"


def _implementations(title: str, path: str, registry: Registry[Any], given: set[str]) -> Iterator[str]:
    """Yield a section on the built-in implementations of an extension point and their options."""
    yield f"## {title}\n\nFurther keys of `{path}`, by what is named there.\n"
    for name in registry.names():
        factory = registry.get(name)
        yield f"### `{name}`\n\n{summary_of(factory)}\n"
        rows = list(_options(factory, given))
        if rows:
            yield _table(iter(rows))


def _options(factory: Callable[..., object], given: set[str]) -> Iterator[tuple[str, str, str, str]]:
    target = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    hints, said = get_type_hints(target), parameter_meanings(factory)
    for name, parameter in inspect.signature(factory).parameters.items():
        if name not in given:
            yield name, _kind(hints.get(name, Any)), _default(parameter.default), _meaning(factory, name, said)


def _meaning(factory: Callable[..., object], name: str, said: dict[str, str]) -> str:
    """Return what an option means; a text that says "See `Class`" is replaced by that class's own."""
    text = said.get(name, "")
    other = re.match(r"See `(\w+)`", text)
    if other is None:
        return text
    inner = parameter_meanings(getattr(sys.modules[factory.__module__], other[1]))
    return inner.get(name) or "A mapping: " + " ".join(f"`{key}`: {meaning}" for key, meaning in inner.items())


def _kind(hint: Any) -> str:
    parts = [part for part in getattr(hint, "__args__", (hint,)) if is_dataclass(part)]
    return "mapping" if parts else type_text(hint)


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    if is_dataclass(value):
        given = {item.name: getattr(value, item.name) for item in fields(value) if item.default is not MISSING}
        return f"`{{{', '.join(f'{name}: {item}' for name, item in given.items())}}}`"
    return "–" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def main() -> None:
    """Write the page to the file that the command line names."""
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
