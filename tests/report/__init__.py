"""The report of a run: what it says, what it must not hold, and how a browser shows it."""
