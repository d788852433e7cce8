"""Devices: a single one, or several ranks and their collectives."""
