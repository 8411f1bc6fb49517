"""The one place where units are converted. Everywhere else information is in nats per sample."""

from __future__ import annotations

import math

LN2 = math.log(2.0)


def nats_to_bits(nats: float) -> float:
    """Bits from nats.

    Example:
        >>> nats_to_bits(math.log(2.0))
        1.0
    """
    return nats / LN2


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """Bits per dimension of a code length of `nats` for a sample of `dimensions` entries.

    Example:
        >>> round(bits_per_dimension(784 * math.log(2.0), 784), 6)
        1.0
    """
    return nats_to_bits(nats) / dimensions


def readable_bytes(count: float) -> str:
    """A count of bytes as a person reads it.

    Example:
        >>> readable_bytes(1536)
        '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
