"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("random", parent=settings.get_profile("repeatable"), derandomize=False)
settings.load_profile(os.environ.get("SERVETWIN_HYPOTHESIS", "repeatable"))

_CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def reference() -> Path:
    """Return the folder of reference data (measured runs, profiles), or skip the test where it is absent."""
    shared = Path(os.environ.get("SERVETWIN_SHARED", _CHECKOUT.parent / "shared"))
    folder = shared / "reference"
    if not folder.is_dir():
        pytest.skip(f"reference data not found at {folder} (set SERVETWIN_SHARED to the folder that holds it)")
    return folder
