"""Each module prints its figures, with a peer or a measured ceiling, in one run: `python -m benchmarks.NAME`."""
