"""Numerical studies of the theory of pruning and over-parameterisation: simulation beside prediction."""
