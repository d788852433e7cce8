"""Results as an HTML page and figures, computed from run folders."""
