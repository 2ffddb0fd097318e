"""Generation, prompt evolution and the loop of self-play."""
