"""Training on a selection, in this process and on the CPU, with the tiny models of tests/fakes.py."""
