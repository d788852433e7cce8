"""Evaluations beside the accuracy, of a trained network: one module each, found through conf/evaluate."""
