"""A small preference world with known gold answers: tasks, a corpus, and two models trained on this machine."""
