"""How far a long evaluation is, in plain lines on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

SECONDS = 5.0


@contextlib.contextmanager
def telling(what: str, wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A function of (done, all) that tells the progress about every five seconds; None where that is not wanted.

    Example:
        >>> with telling("bound", False) as told:
        ...     print(told)
        None
    """
    if not wanted:
        yield None
        return
    started = last = time.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS and done < total:
            last = now
            left = (now - started) * (total - done) / max(done, 1)
            print(f"{what}: {done} of {total}, {left:.0f} s left", file=sys.stderr, flush=True)

    yield told
