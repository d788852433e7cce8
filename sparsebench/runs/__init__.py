"""One run: from a config to a folder, and finished ones read again."""
