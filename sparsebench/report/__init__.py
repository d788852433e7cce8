"""Results as a page and figures: what is shown is read and computed from run folders, never typed."""
