"""Run a training or a theory study from its config, and reopen finished runs."""
