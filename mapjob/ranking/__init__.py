"""From scores to a selection: one global order, ties settled, duplicates counted."""
