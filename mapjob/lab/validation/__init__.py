"""Does a selection help? The same recipe on each selection, on everything and on random subsets, then held-out data."""
