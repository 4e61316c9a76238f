"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def reference() -> Path:
    """Return the folder of reference data (measured runs, profiles), or skip the test where it is absent."""
    shared = Path(os.environ.get("SERVETWIN_SHARED", _CHECKOUT.parent / "shared"))
    folder = shared / "reference"
    if not folder.is_dir():
        pytest.skip(f"reference data not found at {folder} (set SERVETWIN_SHARED to the folder that holds it)")
    return folder
