"""What is kept: create-only puts, the score store, the run folder."""
