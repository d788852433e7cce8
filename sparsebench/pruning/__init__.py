"""Masks, scores, schedules, allocations and methods; independent of models, data sets and configs."""
