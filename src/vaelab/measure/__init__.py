"""Measures kept as sums and counts, so that batches, epochs and processes agree."""
