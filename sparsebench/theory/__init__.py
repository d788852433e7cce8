"""Numerical studies of the theory of pruning and over-parameterisation: simulations compared with predictions."""
