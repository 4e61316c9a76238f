"""The package as a whole: its public names, its import time, and the direction of its imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import servetwin
from servetwin import protocols

PACKAGE = Path(servetwin.__file__).parent

LAYERS = (
    ("core",),
    ("hardware", "llm", "workload"),
    ("network",),
    ("memory",),
    ("step",),
    ("engine",),
    ("cluster",),
    ("metrics", "energy"),
    ("report",),
    ("scenario",),
    ("experiment", "calibrate"),
    ("cli", "testing", "protocols"),
)
"""From the bottom up; a room imports only what stands below it."""


def imports_of(path: Path) -> set[str]:
    """Return the rooms of the package that a module imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("servetwin.")}


def test_imports_point_down_the_layers() -> None:
    """No module imports a room above its own, or another one on its row."""
    level = {room: i for i, rooms in enumerate(LAYERS) for room in rooms}
    wrong = [
        (path.relative_to(PACKAGE).as_posix(), room)
        for own in level
        for path in (PACKAGE / own).rglob("*.py")
        for room in imports_of(path) & set(level)
        if room != own and level[room] >= level[own]
    ]
    assert wrong == []


def test_every_room_has_its_layer() -> None:
    """A new folder of the package must be given its place in the layers."""
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= {room for row in LAYERS for room in row}


def test_public_names() -> None:
    """Everything in ``__all__`` is there, and nothing else is public."""
    for module in (servetwin, protocols):
        assert all(hasattr(module, name) for name in module.__all__)
        assert module.__all__ == sorted(module.__all__)


def test_import_is_cheap() -> None:
    """``import servetwin`` and ``--version`` load none of the heavy libraries."""
    for code in ("import servetwin", "import servetwin.cli.main"):
        program = (
            f"{code}; import sys; print([m for m in ('numpy', 'pydantic', 'pyarrow', 'plotly') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
