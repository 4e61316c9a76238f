"""Servetwin: a digital twin of LLM serving clusters.

``servetwin.simulate("scenario.yaml")`` returns a `Result`. Importing this module is cheap: each name is imported when
it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from servetwin._version import __version__
from servetwin.core.errors import InputError, InvariantError, ServetwinError, StuckError

if TYPE_CHECKING:
    from servetwin.scenario.load import load_scenario
    from servetwin.scenario.result import Result
    from servetwin.scenario.run import simulate
    from servetwin.scenario.schema import Scenario

__all__ = [
    "InputError",
    "InvariantError",
    "Result",
    "Scenario",
    "ServetwinError",
    "StuckError",
    "__version__",
    "load_scenario",
    "simulate",
]

_LATER = {
    "Result": "servetwin.scenario.result",
    "Scenario": "servetwin.scenario.schema",
    "load_scenario": "servetwin.scenario.load",
    "simulate": "servetwin.scenario.run",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'servetwin' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
