"""Hashes by which two runs are shown to be the same: weights, initialisation, splits, order. One module each."""
