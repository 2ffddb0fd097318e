"""The Ray Data graph and the thin actors around the scorers."""
