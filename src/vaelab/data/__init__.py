"""Data: sources, splits, invertible transforms, batches."""
