"""One module per method; conf/prune lists them."""
