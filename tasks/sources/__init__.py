"""Where cases come from: one file for each URL scheme."""
