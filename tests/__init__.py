"""The tests, in folders as those of the package; what several of them use lies in support."""
