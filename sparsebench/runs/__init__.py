"""One run, or one theory study: from a config to a folder; and finished runs read again."""
