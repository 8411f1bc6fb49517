"""The pytest fixture `assert_elbo`, found by pytest where vaelab is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def assert_elbo() -> Callable[..., Any]:
    """`vaelab.testing.assert_elbo`: fails with the whole report unless a loss is the bound."""
    from .testing import assert_elbo

    return assert_elbo
