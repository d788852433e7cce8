"""Data sets kept whole in memory, and the batches drawn from them."""
