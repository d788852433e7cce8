"""Verify the results of finished runs against their weights, config and data; one module per subject."""
