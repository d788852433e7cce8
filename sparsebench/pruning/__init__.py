"""Masks, scores, schedules, allocations and methods. Knows no model, data set or config."""
