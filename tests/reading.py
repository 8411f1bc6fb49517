"""What tests of reading share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vaelab.core.errors import BadInput
from vaelab.data.source import Source, load


def codes(found: Source) -> set[str]:
    """Codes of the findings met while reading."""
    return {finding.code for finding in found.findings}


def refused(read: Callable[[], object], *parts: str) -> None:
    """Asserts that reading is refused in one line that contains every part."""
    with pytest.raises(BadInput) as caught:
        read()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def load_refused(x: object, *parts: str, **options: str) -> None:
    """Asserts that loading is refused in one line that contains every part."""
    refused(lambda: load(x, **options), *parts)
