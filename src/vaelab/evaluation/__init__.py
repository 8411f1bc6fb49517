"""Evaluation of a finished run: bounds with errors, and every metric the field reports."""
