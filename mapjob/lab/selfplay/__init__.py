"""Self-play: responses to prompts, rewrites of prompts, and the loop of both with scoring, selection and training."""
