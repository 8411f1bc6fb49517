"""Whole models: the step is recorded, its parts found and replaced, the sampler measured."""
