"""Lossless compression by a trained model: bits-back coding with asymmetric numeral systems."""

from .rates import Rates, rates
from .rows import compress, decompress

__all__ = ["Rates", "compress", "decompress", "rates"]
