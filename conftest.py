"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def shared() -> Path:
    """The folder with real data sets beside the checkout (or `VAELAB_SHARED_DATA`); the test is skipped without it."""
    default = Path(__file__).resolve().parent.parent / "shared" / "data"
    folder = Path(os.environ.get("VAELAB_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data sets are not at {folder}")
    return folder


@pytest.fixture(autouse=True)
def _own_folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples in documentation write their runs into a folder of their own."""
    if type(request.node).__name__ == "DoctestItem":
        monkeypatch.chdir(tmp_path)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes get a short name: their content may hold a clock, and parallel workers must collect the same names."""
    return f"{len(val)}-bytes" if isinstance(val, bytes) else None
