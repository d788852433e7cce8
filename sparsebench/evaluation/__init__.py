"""Evaluations of a trained network in addition to accuracy: one module each, found through conf/evaluate."""
