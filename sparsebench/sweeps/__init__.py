"""Sweeps: grids, scheduling, launchers, and cost estimates."""
