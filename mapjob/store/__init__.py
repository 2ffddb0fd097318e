"""Bytes and names: create-only puts, the score store, the run folder."""
