"""Many runs: grids, what is left of them, where they are started, and what they would cost."""
