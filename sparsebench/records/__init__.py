"""Everything that is written to and read from results: one folder a run, tables by collecting."""
