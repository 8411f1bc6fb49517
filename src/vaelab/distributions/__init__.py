"""Conditional distributions: modules whose forward returns an object that knows its own mathematics."""
