"""Each module prints its figures beside a peer or a measured ceiling, in one run: `python -m benchmarks.NAME`."""
