"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def shared() -> Path:
    """The folder with real data sets beside the checkout (or `VAELAB_SHARED_DATA`); the test is skipped without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("VAELAB_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data sets are not at {folder}")
    return folder
