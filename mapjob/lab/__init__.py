"""The laboratory: known worlds, training, self-play, validation, each with its own config. The job never imports it."""
